//! One pull at work: events in, planner, requests out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use uuid::Uuid;
use vitrail_chunkstore::Lease;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::congestion::Class;
use vitrail_proto::fetch::{Have, Output, PeerInfo, Pull};
use vitrail_proto::id::ChunkId;

use super::account::Account;
use super::holders::{Failure, Holders, Opened};
use super::interest::PullHandle;
use super::plan::Plan;
use super::storing::{Job, Stored, store_frames};
use super::telling::Telling;
use crate::peer::Peers;
use crate::peer::session::Event;

/// Frames that wait to be stored, over all peers of a pull: 16 of at most 1 MiB.
const EVENTS_MAX: usize = 16;
/// How long a pull goes on when nobody is interested any more.
const LINGER: Duration = Duration::from_secs(15);
/// How long a pull looks for holders before it gives up.
const STARVE_MAX: Duration = Duration::from_secs(15);
/// How often it looks for more holders.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Task {
    peers: Arc<Peers>,
    handle: Arc<PullHandle>,
    pull: Pull,
    account: Account,
    index_of: HashMap<ChunkId, u32>,
    lens: Vec<u32>,
    /// How often each chunk stands in the image, by first index; what its arrival adds to the progress.
    repeats: HashMap<u32, u64>,
    holders: Holders,
    events: mpsc::Receiver<Event>,
    store_in: mpsc::Sender<Job>,
    stored: mpsc::UnboundedReceiver<Stored>,
    starved_since: Option<Instant>,
    telling: Telling,
    /// When a client was last seen to wait.
    waited_at: Option<Instant>,
    _lease: Arc<Lease>,
}

impl Task {
    /// A pull of what `plan` says, which asks for the chunk `at` first.
    pub(super) fn new(
        peers: Arc<Peers>,
        handle: Arc<PullHandle>,
        plan: Plan,
        number: u64,
        image: Option<Uuid>,
        at: Option<u32>,
    ) -> Self {
        let lens: Vec<u32> = plan.manifest.chunks().map(|(_, len)| len).collect();
        let index_of = plan
            .wanted
            .iter()
            .map(|w| (plan.ids[w.index as usize], w.index))
            .collect();
        let mut repeats = HashMap::new();
        for (index, first) in plan.first.iter().enumerate() {
            if !plan.present[index] {
                *repeats.entry(*first).or_insert(0) += 1;
            }
        }
        let missing = plan.wanted.iter().map(|w| u64::from(w.len)).sum();
        let site = peers.site.clone();
        let account = Account::new(number, image, site, plan.local_bytes, missing);
        let (store_in, jobs) = mpsc::channel(EVENTS_MAX);
        let (stored_out, stored) = mpsc::unbounded_channel();
        let (store, lease) = (peers.store.clone(), plan.lease.clone());
        peers
            .tasks
            .spawn_blocking(move || store_frames(&store, lease, jobs, &stored_out));
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let mut pull = Pull::new(plan.wanted, peers.number, peers.number ^ number);
        pull.set_policy(peers.experiment.policy.into());
        // The first requests go out before the first interest tells where it waits.
        pull.set_whole(handle.demand().1, Duration::ZERO);
        pull.set_positions(at, Duration::ZERO);
        let class = match at {
            Some(_) => Class::Interactive,
            None => Class::Background,
        };
        Self {
            holders: Holders::new(peers.clone(), handle.manifest_id, events_in, class),
            peers,
            handle,
            pull,
            account,
            index_of,
            lens,
            repeats,
            events,
            store_in,
            stored,
            starved_since: None,
            telling: Telling::new(missing),
            waited_at: at.map(|_| Instant::now()),
            _lease: plan.lease,
        }
    }

    fn now(&self) -> Duration {
        self.account.epoch.elapsed()
    }

    pub(super) async fn run(mut self) {
        let driven = self.drive().await;
        let Self {
            peers,
            handle,
            pull,
            account,
            holders,
            store_in,
            stored,
            _lease,
            ..
        } = self;
        let links = holders.links();
        let dropped = holders.into_reasons();
        drop(store_in);
        // What came is made durable, however the pull ended.
        let committed = committed(stored).await;
        let result = driven.and(committed);
        let mut receipt = account.receipt(&handle, &pull, dropped, &result);
        account.teach(&peers.pulls.rates, &pull);
        if result.is_ok() {
            peers.metrics.pull(receipt.seconds, receipt.bound_seconds);
            peers.copy_arrived(handle.manifest_id).await;
        } else {
            peers.holding_changed(handle.manifest_id).await;
        }
        peers.pulls.remove(&handle);
        handle.end(result);
        // Nobody has to wait for this.
        account.ask_paths(&links, &mut receipt).await;
        peers.receipts.add(receipt);
    }

    /// Works until everything has come, or it cannot go on.
    async fn drive(&mut self) -> Result<(), String> {
        let handle = self.handle.clone();
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            if self.act() {
                return Ok(());
            }
            let timeout = self.pull.next_timeout();
            let sleep = timeout.map_or(Duration::from_secs(3600), |at| {
                at.saturating_sub(self.now())
            });
            tokio::select! {
                biased;
                stored = self.stored.recv() => self.take_stored(stored)?,
                opened = self.holders.opened() => self.take_opened(opened),
                event = self.events.recv(), if self.can_store() => {
                    if let Some(event) = event { self.take_event(event); }
                }
                () = self.peers.stop.cancelled() => return Err("the daemon is stopping".into()),
                () = handle.demand_changed() => self.follow_demand(),
                _ = look.tick() => {
                    self.holders.look();
                    self.count_arrived();
                    self.check_demand()?;
                    self.lower_class();
                    self.check_starved()?;
                    self.tell_part().await;
                }
                () = tokio::time::sleep(sleep) => {
                    let now = self.now();
                    if !self.can_store() {
                        self.pull.excuse(now);
                    }
                    self.count_arrived();
                    self.pull.handle_timeout(now);
                }
            }
        }
    }

    fn can_store(&self) -> bool {
        self.store_in.capacity() > 0
    }

    fn count_arrived(&mut self) {
        let now = self.now();
        for (peer, bytes) in self.holders.take_arrived() {
            self.pull.handle_bytes(peer, bytes, now);
        }
    }

    /// Carries out what the planner wants; true when it wants nothing more.
    fn act(&mut self) -> bool {
        while let Some(output) = self.pull.poll() {
            let (peer, sent) = match output {
                Output::Request {
                    peer,
                    request,
                    chunks,
                    first,
                } => {
                    let session = self.holders.get_mut(peer);
                    let sent = session.map(|session| session.get(request, chunks, first));
                    (peer, sent)
                }
                Output::Cancel { peer, request } => {
                    let left = self.pull.left_bytes();
                    tracing::debug!(peer, request, left, "a request is taken back");
                    let session = self.holders.get_mut(peer);
                    (peer, session.map(|session| session.cancel(request)))
                }
                Output::Drop { peer, reason } => {
                    self.holders.drop_session(peer, Failure::Slow, &reason);
                    continue;
                }
                Output::Starved => {
                    self.starved_since.get_or_insert_with(Instant::now);
                    continue;
                }
                Output::Complete => return true,
            };
            if let Some(Err(error)) = sent {
                self.lose(peer, &error.to_string());
            }
        }
        false
    }

    /// A link broke: the site may be asked again.
    fn lose(&mut self, peer: u64, reason: &str) {
        let now = self.now();
        self.pull.remove_peer(peer, now);
        self.holders.drop_session(peer, Failure::Lost, reason);
    }

    /// A peer sent what it must not send.
    fn accuse(&mut self, peer: u64, reason: String) {
        self.holders.drop_session(peer, Failure::Fault, &reason);
        let now = self.now();
        self.pull.handle_fault(peer, reason, now);
    }

    fn take_opened(&mut self, opened: Opened) {
        let Opened { holder, session } = opened;
        match session {
            Ok(session) => {
                let rates = &self.peers.pulls.rates;
                let rate = rates.of(holder.number);
                self.account.know_rate(holder.number, rate);
                let set = self.peers.experiment.rates.get(&holder.name);
                let set = set.map(|rate| rate.bytes_per_second().get() as f64);
                let info = PeerInfo {
                    distance: holder.distance,
                    rtt: session.link.rtt(),
                    rate: set.or(rate.map(|rate| rates.uncompressed(rate))),
                };
                // Believed until its own word comes, which saves a round trip.
                self.holders.add(holder.number, session);
                let now = self.now();
                self.pull.add_peer(holder.number, info, holder.have, now);
            }
            Err(reason) => {
                tracing::debug!(peer = holder.name, reason, "holder not reached");
                self.holders
                    .shun(holder.number, &holder.name, Failure::Lost, &reason);
            }
        }
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Frame {
                peer,
                request,
                frame,
                chunks,
            } => self.take_frame(peer, request, frame, chunks),
            Event::Done {
                peer,
                request,
                missing,
            } => {
                if let Some(session) = self.holders.get_mut(peer) {
                    session.done(request);
                }
                // Frames before it may still be on their way into the store.
                self.store(Job::Done {
                    peer,
                    request,
                    missing,
                });
            }
            Event::Have { peer, runs } => {
                let now = self.now();
                self.pull.update_have(peer, Have::Part(runs), now);
            }
            Event::Path { peer, figures } => {
                self.account.know_path(peer, figures);
                let rates = &self.peers.experiment.rates;
                let session = self.holders.get(peer);
                let is_set = session.is_some_and(|s| rates.contains_key(&s.link.site));
                if let Some(rate) = figures.rate.filter(|_| !is_set) {
                    let rate = self.peers.pulls.rates.uncompressed(rate as f64);
                    let now = self.now();
                    self.pull.expect_rate(peer, rate, now);
                }
            }
            Event::Fault { peer, reason } => self.accuse(peer, reason),
            Event::Lost { peer, reason } => self.lose(peer, &reason),
        }
    }

    fn take_frame(&mut self, peer: u64, request: u32, frame: Bytes, chunks: Vec<VerifiedChunk>) {
        let Some(session) = self.holders.get(peer) else {
            return;
        };
        let indexes: Option<Vec<u32>> = chunks
            .iter()
            .map(|chunk| self.index_of.get(&chunk.id()).copied())
            .collect();
        let Some(indexes) = indexes else {
            return self.accuse(peer, "it sent chunks that nobody asked for".into());
        };
        let raw = chunks.iter().map(|chunk| u64::from(chunk.len())).sum();
        self.account
            .add(peer, &session.link.site, frame.len() as u64, raw);
        let wanted = indexes
            .iter()
            .map(|index| !self.handle.is_present(*index))
            .collect();
        self.store(Job::Frame {
            peer,
            request,
            frame,
            chunks,
            indexes,
            wanted,
        });
    }

    /// There is room: events are taken only then. A writer that has ended says why by itself.
    fn store(&mut self, job: Job) {
        let _sent = self.store_in.try_send(job);
    }

    fn take_stored(&mut self, stored: Option<Stored>) -> Result<(), String> {
        let now = self.now();
        match stored {
            Some(Stored::Chunks {
                peer,
                request,
                indexes,
            }) => {
                for &index in &indexes {
                    let times = self.repeats.get(&index).copied().unwrap_or(1);
                    let bytes = u64::from(self.lens[index as usize]) * times;
                    self.handle.set_present(index, bytes);
                }
                self.handle.notify_arrived();
                self.pull.handle_chunks(peer, request, indexes, now);
                self.starved_since = None;
                Ok(())
            }
            Some(Stored::Done {
                peer,
                request,
                missing,
            }) => {
                self.pull.handle_done(peer, request, &missing, now);
                Ok(())
            }
            Some(Stored::Failed(reason)) => Err(reason),
            Some(Stored::Committed) | None => Err("the store's writer ended".into()),
        }
    }

    fn follow_demand(&mut self) {
        let now = self.now();
        let (positions, whole) = self.handle.demand();
        if !positions.is_empty() {
            self.waited_at = Some(Instant::now());
            self.holders.set_class(Class::Interactive);
        }
        self.pull.set_positions(positions, now);
        self.pull.set_whole(whole, now);
    }

    async fn tell_part(&mut self) {
        let arrived = self.account.missing_bytes - self.pull.left_bytes();
        let whole = self.handle.demand().1;
        if self.telling.is_due(arrived, whole, self.now()) {
            let chunks = self.handle.present_chunks();
            self.peers.tell_part(self.handle.manifest_id, chunks).await;
        }
    }

    /// A pull for which no client has waited for a while only fills the store.
    fn lower_class(&mut self) {
        let lately = |at: Instant| at.elapsed() < LOOK_INTERVAL;
        if self.handle.demand().0.is_empty() && !self.waited_at.is_some_and(lately) {
            self.holders.set_class(Class::Background);
        }
    }

    fn check_demand(&self) -> Result<(), String> {
        match self.handle.unwanted_for() {
            Some(time) if time > LINGER => Err("nobody waits for it any more".into()),
            _ => Ok(()),
        }
    }

    fn check_starved(&self) -> Result<(), String> {
        match self.starved_since {
            Some(since) if self.holders.is_empty() && since.elapsed() > STARVE_MAX => Err(format!(
                "{} bytes are missing: {}",
                self.pull.left_bytes(),
                self.holders.reasons()
            )),
            _ => Ok(()),
        }
    }
}

/// Waits for the writer's last word, after its queue was closed.
async fn committed(mut stored: mpsc::UnboundedReceiver<Stored>) -> Result<(), String> {
    loop {
        match stored.recv().await {
            Some(Stored::Committed) => return Ok(()),
            Some(Stored::Failed(reason)) => return Err(reason),
            Some(Stored::Chunks { .. } | Stored::Done { .. }) => {}
            None => return Err("the store's writer ended".into()),
        }
    }
}
