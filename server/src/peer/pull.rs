//! Carrying out pulls: one for each manifest, whatever the number of clients that wait for it.
//!
//! A pull lives while somebody is interested in it ([`Interest`]), and ends when everything is there and durable, when it
//! cannot go on, or some time after the last interest has gone. Chunks that arrived stay in the store either way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;
use vitrail_chunkstore::{Lease, Store};
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::congestion as traffic;
use vitrail_proto::fetch::bound::{Class, lower_bound};
use vitrail_proto::fetch::{Have, Output, PeerInfo, Pull, Wanted};
use vitrail_proto::id::{ChunkId, ManifestId};
use vitrail_proto::manifest::Manifest;
use vitrail_proto::runs::Runs;

use super::receipt::{PeerBytes, Receipt};
use super::session::{Event, Session, fetch_manifest};
use super::{Holder, Peers};

/// Frames that wait to be stored, over all peers of a pull: 16 of at most 1 MiB.
const EVENTS_MAX: usize = 16;
/// How long a pull goes on when nobody is interested any more.
const LINGER: Duration = Duration::from_secs(15);
/// How long a pull looks for holders before it gives up.
const STARVE_MAX: Duration = Duration::from_secs(15);
/// How often it looks for more holders.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Holders of one pull.
const HOLDERS_MAX: usize = 8;
/// How long the word of who holds a new image may come behind its record: the slowest of 1,000 simulated sites
/// heard it after 3.9 s.
const HOLDER_PATIENCE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const HOLDER_POLL: Duration = Duration::from_millis(25);
/// A holder that failed is not asked again for so long.
const SHUN: Duration = Duration::from_secs(20);

/// All pulls of this site.
#[derive(Default)]
pub(super) struct Pulls {
    active: Mutex<HashMap<ManifestId, Arc<PullHandle>>>,
    next: AtomicU64,
}

/// A pull as its clients see it.
pub struct PullHandle {
    manifest_id: ManifestId,
    manifest: Arc<Manifest>,
    /// Whether each chunk, by its first index, is in the store.
    present: Vec<AtomicBool>,
    /// First index of the same chunk, by index.
    first: Vec<u32>,
    done_bytes: AtomicU64,
    arrived: Notify,
    demand: Mutex<Demand>,
    demand_changed: Notify,
    outcome: watch::Sender<Option<Result<(), String>>>,
}

#[derive(Default)]
struct Demand {
    next: u64,
    /// Where clients are, by interest; none for one that waits for everything.
    interests: HashMap<u64, Option<u32>>,
    /// Interests that want the whole image.
    whole: usize,
    last_gone: Option<Instant>,
}

/// Somebody who waits for chunks. The pull may end when all of them are dropped.
pub struct Interest {
    pull: Arc<PullHandle>,
    number: u64,
    whole: bool,
}

impl PullHandle {
    /// Begins to be interested: in everything, or only in what is waited for.
    pub fn interest(self: &Arc<Self>, whole: bool) -> Interest {
        let mut demand = self.demand.lock();
        let number = demand.next;
        demand.next += 1;
        demand.interests.insert(number, None);
        demand.whole += usize::from(whole);
        drop(demand);
        self.demand_changed.notify_one();
        Interest {
            pull: self.clone(),
            number,
            whole,
        }
    }

    /// Bytes of data that are there, and in all.
    pub fn progress(&self) -> (u64, u64) {
        (
            self.done_bytes.load(Ordering::Relaxed),
            self.manifest.data_size(),
        )
    }

    fn is_present(&self, index: u32) -> bool {
        self.present[self.first[index as usize] as usize].load(Ordering::Acquire)
    }
}

impl Interest {
    /// Waits until these chunks are in the store.
    pub async fn wait(&self, chunks: std::ops::Range<u32>) -> Result<(), String> {
        let pull = &self.pull;
        let mut outcome = pull.outcome.subscribe();
        loop {
            let arrived = pull.arrived.notified();
            let Some(first) = chunks.clone().find(|index| !pull.is_present(*index)) else {
                return Ok(());
            };
            let position = pull.first[first as usize];
            let moved = {
                let mut demand = pull.demand.lock();
                demand.interests.insert(self.number, Some(position)) != Some(Some(position))
            };
            if moved {
                pull.demand_changed.notify_one();
            }
            if let Some(Err(reason)) = outcome.borrow_and_update().clone() {
                return Err(reason);
            }
            tokio::select! {
                () = arrived => {}
                changed = outcome.changed() => if changed.is_err() {
                    return Err("the pull was abandoned".into());
                }
            }
        }
    }

    /// Waits until the pull has ended.
    pub async fn finished(&self) -> Result<(), String> {
        let mut outcome = self.pull.outcome.subscribe();
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.map(|o| o.clone()) {
            Ok(Some(result)) => result,
            _ => Err("the pull was abandoned".into()),
        }
    }

    /// Whether the pull has ended, well or not.
    pub fn has_ended(&self) -> bool {
        self.pull.outcome.borrow().is_some()
    }

    /// The pull.
    pub fn pull(&self) -> &Arc<PullHandle> {
        &self.pull
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut demand = self.pull.demand.lock();
        demand.interests.remove(&self.number);
        demand.whole -= usize::from(self.whole);
        demand.last_gone = Some(Instant::now());
        drop(demand);
        self.pull.demand_changed.notify_one();
    }
}

impl Peers {
    /// Makes sure that the manifest is in the store, from another site if need be. The lease keeps it.
    pub async fn ensure_manifest(
        &self,
        id: ManifestId,
        lease: &Lease,
    ) -> Result<Arc<Manifest>, String> {
        lease.add_manifest(id);
        let store = self.store.clone();
        if let Some(Ok(manifest)) = super::serve::blocking(move || store.manifest(id)).await {
            return Ok(manifest);
        }
        let mut reasons = Vec::new();
        for holder in self.wait_for_holders(id).await {
            let attempt = async {
                let link = self.link_to(&holder).await.map_err(|e| format!("{e:#}"))?;
                fetch_manifest(&link, id).await.map_err(|e| e.to_string())
            };
            match attempt.await {
                Ok(Some(manifest)) => {
                    let store = self.store.clone();
                    let lease = store.lease();
                    let stored = super::serve::blocking(move || {
                        store
                            .put_manifest(&manifest, &lease)
                            .map(|_| Arc::new(manifest))
                    });
                    return match stored.await {
                        Some(Ok(manifest)) => Ok(manifest),
                        Some(Err(error)) => Err(error.to_string()),
                        None => Err("storing the manifest failed".into()),
                    };
                }
                Ok(None) => reasons.push(format!("{}: it does not have it", holder.name)),
                Err(reason) => reasons.push(format!("{}: {reason}", holder.name)),
            }
        }
        if reasons.is_empty() {
            reasons.push("no other site is known to hold it".into());
        }
        Err(format!(
            "the image's manifest could not be fetched ({})",
            reasons.join("; ")
        ))
    }

    /// Who holds a manifest. The record of a new image may come before the word of who holds it, so that is waited for
    /// a while.
    async fn wait_for_holders(&self, id: ManifestId) -> Vec<Holder> {
        let deadline = Instant::now() + HOLDER_PATIENCE;
        loop {
            let holders = self.holders(id);
            if !holders.is_empty() || Instant::now() >= deadline {
                return holders;
            }
            tokio::time::sleep(HOLDER_POLL).await;
        }
    }

    /// The pull of a manifest that the store has, begun if it does not run. None if nothing is missing.
    /// One that begins asks for the chunk `at` first, or for any.
    pub async fn pull(
        self: &Arc<Self>,
        id: ManifestId,
        image: Option<Uuid>,
        whole: bool,
        at: Option<u32>,
    ) -> Result<Option<Interest>, String> {
        let running = |pulls: &HashMap<ManifestId, Arc<PullHandle>>| {
            let handle = pulls
                .get(&id)
                .filter(|pull| pull.outcome.borrow().is_none());
            handle.map(|handle| handle.interest(whole))
        };
        if let Some(interest) = running(&self.pulls.active.lock()) {
            return Ok(Some(interest));
        }
        let store = self.store.clone();
        let plan = super::serve::blocking(move || Plan::make(&store, id)).await;
        let plan = plan.ok_or("planning failed")?.map_err(|e| e.to_string())?;
        if plan.wanted.is_empty() {
            return Ok(None);
        }
        let mut active = self.pulls.active.lock();
        if let Some(interest) = running(&active) {
            return Ok(Some(interest));
        }
        let handle = Arc::new(PullHandle {
            manifest_id: id,
            manifest: plan.manifest.clone(),
            present: plan.present.iter().map(|p| AtomicBool::new(*p)).collect(),
            first: plan.first.clone(),
            done_bytes: AtomicU64::new(plan.local_bytes),
            arrived: Notify::new(),
            demand: Mutex::default(),
            demand_changed: Notify::new(),
            outcome: watch::Sender::new(None),
        });
        let interest = handle.interest(whole);
        active.insert(id, handle.clone());
        drop(active);
        let number = self.pulls.next.fetch_add(1, Ordering::Relaxed);
        let mut task = Task::new(self.clone(), handle, plan, number, image);
        // The first requests go out before the first interest tells where it waits.
        task.pull.set_whole(whole, Duration::ZERO);
        task.pull.set_positions(at, Duration::ZERO);
        if at.is_some() {
            task.set_class(traffic::Class::Interactive);
        }
        self.tasks.spawn(task.run());
        Ok(Some(interest))
    }
}

/// What a pull has to bring.
struct Plan {
    manifest: Arc<Manifest>,
    ids: Vec<ChunkId>,
    first: Vec<u32>,
    present: Vec<bool>,
    wanted: Vec<Wanted>,
    local_bytes: u64,
    lease: Arc<Lease>,
}

impl Plan {
    fn make(store: &Store, id: ManifestId) -> Result<Self, vitrail_chunkstore::Error> {
        let lease = Arc::new(store.lease());
        // Its chunks are leased with it, before anybody looks which of them are there.
        lease.add_manifest(id);
        let manifest = store.manifest(id)?;
        let chunks: Vec<(ChunkId, u32)> = manifest.chunks().collect();
        let mut firsts: HashMap<ChunkId, u32> = HashMap::with_capacity(chunks.len());
        let mut first = Vec::with_capacity(chunks.len());
        for (index, (id, _)) in chunks.iter().enumerate() {
            lease.add_chunk(*id);
            first.push(*firsts.entry(*id).or_insert(index as u32));
        }
        let held = super::serve::held(store, &chunks)?;
        let present: Vec<bool> = (0..chunks.len() as u32).map(|i| held.contains(i)).collect();
        let (mut wanted, mut local_bytes) = (Vec::new(), 0);
        for (index, (_, len)) in chunks.iter().enumerate() {
            if present[index] {
                local_bytes += u64::from(*len);
            } else if first[index] == index as u32 {
                wanted.push(Wanted {
                    index: index as u32,
                    len: *len,
                });
            }
        }
        let ids = chunks.iter().map(|(id, _)| *id).collect();
        Ok(Self {
            manifest,
            ids,
            first,
            present,
            wanted,
            local_bytes,
            lease,
        })
    }
}

/// What goes to the store's writer, in the order in which it came.
enum Job {
    /// A frame to be stored.
    Frame {
        peer: u64,
        request: u32,
        frame: Bytes,
        chunks: Vec<VerifiedChunk>,
        indexes: Vec<u32>,
        wanted: Vec<bool>,
    },
    /// A request has ended; passed on behind its frames.
    Done {
        peer: u64,
        request: u32,
        missing: Runs,
    },
}

/// What the store has done.
enum Stored {
    Chunks {
        peer: u64,
        request: u32,
        indexes: Vec<u32>,
    },
    Done {
        peer: u64,
        request: u32,
        missing: Runs,
    },
    Committed,
    Failed(String),
}

struct Task {
    peers: Arc<Peers>,
    handle: Arc<PullHandle>,
    pull: Pull,
    number: u64,
    image: Option<Uuid>,
    index_of: HashMap<ChunkId, u32>,
    lens: Vec<u32>,
    /// How often each chunk stands in the image, by first index; what its arrival adds to the progress.
    repeats: HashMap<u32, u64>,
    local_bytes: u64,
    missing_bytes: u64,
    epoch: Instant,
    started_ms: u64,
    sessions: HashMap<u64, Session>,
    class: traffic::Class,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    store_in: Option<mpsc::Sender<Job>>,
    stored: mpsc::UnboundedReceiver<Stored>,
    bytes: HashMap<u64, (String, PeerBytes)>,
    shunned: HashMap<u64, Instant>,
    reasons: Vec<String>,
    starved_since: Option<Instant>,
    lease: Arc<Lease>,
}

impl Task {
    fn new(
        peers: Arc<Peers>,
        handle: Arc<PullHandle>,
        plan: Plan,
        number: u64,
        image: Option<Uuid>,
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
        let missing_bytes = plan.wanted.iter().map(|w| u64::from(w.len)).sum();
        let (store_in, jobs) = mpsc::channel(EVENTS_MAX);
        let (stored_out, stored) = mpsc::unbounded_channel();
        let (store, lease) = (peers.store.clone(), plan.lease.clone());
        peers
            .tasks
            .spawn_blocking(move || store_frames(&store, lease, jobs, &stored_out));
        Self {
            pull: Pull::new(plan.wanted, peers.seed ^ number),
            events: mpsc::channel(EVENTS_MAX),
            epoch: Instant::now(),
            started_ms: crate::catalogue::now_ms(),
            store_in: Some(store_in),
            sessions: HashMap::new(),
            class: traffic::Class::Background,
            bytes: HashMap::new(),
            shunned: HashMap::new(),
            reasons: Vec::new(),
            starved_since: None,
            local_bytes: plan.local_bytes,
            lease: plan.lease,
            peers,
            handle,
            number,
            image,
            index_of,
            lens,
            repeats,
            missing_bytes,
            stored,
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    async fn run(mut self) {
        let result = self.drive().await;
        self.finish(result).await;
    }

    async fn drive(&mut self) -> Result<(), String> {
        let handle = self.handle.clone();
        self.look_for_holders().await;
        self.follow_demand();
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            if self.act()? {
                return self.commit().await;
            }
            let timeout = self.pull.next_timeout();
            let sleep = timeout.map_or(Duration::from_secs(3600), |at| {
                at.saturating_sub(self.now())
            });
            tokio::select! {
                biased;
                stored = self.stored.recv() => self.take_stored(stored)?,
                event = self.events.1.recv(), if self.can_store() => {
                    if let Some(event) = event { self.take_event(event); }
                }
                () = self.peers.stop.cancelled() => return Err("the daemon is stopping".into()),
                () = handle.demand_changed.notified() => self.follow_demand(),
                _ = look.tick() => {
                    self.look_for_holders().await;
                    self.check_demand()?;
                    self.lower_class();
                    self.check_starved()?;
                }
                () = tokio::time::sleep(sleep) => {
                    let now = self.now();
                    self.pull.handle_timeout(now);
                }
            }
        }
    }

    fn can_store(&self) -> bool {
        self.store_in
            .as_ref()
            .is_some_and(|queue| queue.capacity() > 0)
    }

    /// Carries out what the planner wants; true when it wants nothing more.
    fn act(&mut self) -> Result<bool, String> {
        while let Some(output) = self.pull.poll() {
            match output {
                Output::Request {
                    peer,
                    request,
                    chunks,
                } => {
                    let sent = self.sessions.get_mut(&peer).map(|s| s.get(request, chunks));
                    if let Some(Err(error)) = sent {
                        self.lose(peer, &error.to_string());
                    }
                }
                Output::Cancel { peer, request } => {
                    let sent = self.sessions.get_mut(&peer).map(|s| s.cancel(request));
                    if let Some(Err(error)) = sent {
                        self.lose(peer, &error.to_string());
                    }
                }
                Output::Drop { peer, reason } => self.drop_session(peer, &reason),
                Output::Starved => self.starved_since = Some(Instant::now()),
                Output::Complete => return Ok(true),
            }
        }
        Ok(false)
    }

    /// A link broke: the site may be asked again.
    fn lose(&mut self, peer: u64, reason: &str) {
        let now = self.now();
        self.pull.remove_peer(peer, now);
        self.drop_session(peer, reason);
    }

    fn drop_session(&mut self, peer: u64, reason: &str) {
        self.shunned.insert(peer, Instant::now());
        if let Some(session) = self.sessions.remove(&peer) {
            tracing::warn!(
                pull = self.number,
                peer = session.link.site,
                reason,
                "holder dropped"
            );
            self.reasons
                .push(format!("{}: {reason}", session.link.site));
            let excess = self.reasons.len().saturating_sub(HOLDERS_MAX);
            self.reasons.drain(..excess);
        }
    }

    fn take_event(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Frame {
                peer,
                request,
                frame,
                chunks,
            } => {
                let Some(session) = self.sessions.get(&peer) else {
                    return;
                };
                let indexes: Option<Vec<u32>> = chunks
                    .iter()
                    .map(|c| self.index_of.get(&c.id()).copied())
                    .collect();
                let Some(indexes) = indexes else {
                    let reason = "it sent chunks that nobody asked for".to_owned();
                    self.pull.handle_fault(peer, reason, now);
                    return;
                };
                let entry = self.bytes.entry(peer).or_default();
                entry.0.clone_from(&session.link.site);
                entry.1.wire += frame.len() as u64;
                entry.1.raw += chunks.iter().map(|c| u64::from(c.len())).sum::<u64>();
                let wanted = indexes
                    .iter()
                    .map(|i| !self.handle.is_present(*i))
                    .collect();
                let job = Job::Frame {
                    peer,
                    request,
                    frame,
                    chunks,
                    indexes,
                    wanted,
                };
                // There is room: events are taken only then.
                if let Some(queue) = &self.store_in {
                    let _sent = queue.try_send(job);
                }
            }
            Event::Done {
                peer,
                request,
                missing,
            } => {
                if let Some(session) = self.sessions.get_mut(&peer) {
                    session.done(request);
                }
                // Frames before it may still be on their way into the store.
                if let Some(queue) = &self.store_in {
                    let job = Job::Done {
                        peer,
                        request,
                        missing,
                    };
                    let _sent = queue.try_send(job);
                }
            }
            Event::Have { peer, runs } => self.pull.update_have(peer, Have::Part(runs), now),
            Event::Fault { peer, reason } => {
                self.peers.faults.fetch_add(1, Ordering::Relaxed);
                self.pull.handle_fault(peer, reason, now);
            }
            Event::Lost { peer, reason } => self.lose(peer, &reason),
        }
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
                    if !self.handle.present[index as usize].swap(true, Ordering::AcqRel) {
                        let times = self.repeats.get(&index).copied().unwrap_or(1);
                        let bytes = u64::from(self.lens[index as usize]) * times;
                        self.handle.done_bytes.fetch_add(bytes, Ordering::Relaxed);
                    }
                }
                self.pull.handle_chunks(peer, request, indexes, now);
                self.starved_since = None;
                self.handle.arrived.notify_waiters();
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
        let (positions, whole) = {
            let demand = self.handle.demand.lock();
            let positions: Vec<u32> = demand.interests.values().copied().flatten().collect();
            (positions, demand.whole > 0)
        };
        if !positions.is_empty() {
            self.set_class(traffic::Class::Interactive);
        }
        self.pull.set_positions(positions, now);
        self.pull.set_whole(whole, now);
    }

    /// A pull is interactive as soon as a client waits for bytes, and background when it only fills the store. It
    /// becomes that at the next look, not between two reads of a client.
    fn lower_class(&mut self) {
        let waited_for = self
            .handle
            .demand
            .lock()
            .interests
            .values()
            .any(Option::is_some);
        if !waited_for {
            self.set_class(traffic::Class::Background);
        }
    }

    fn set_class(&mut self, class: traffic::Class) {
        self.class = class;
        for session in self.sessions.values_mut() {
            // A session that takes nothing any more is found out by its readers.
            let _told = session.set_class(self.class);
        }
    }

    fn check_demand(&self) -> Result<(), String> {
        let demand = self.handle.demand.lock();
        let gone = demand.last_gone.is_some_and(|at| at.elapsed() > LINGER);
        if demand.interests.is_empty() && gone {
            return Err("nobody waits for it any more".into());
        }
        Ok(())
    }

    fn check_starved(&self) -> Result<(), String> {
        match self.starved_since {
            Some(since) if self.sessions.is_empty() && since.elapsed() > STARVE_MAX => {
                let why = if self.reasons.is_empty() {
                    "no reachable site holds them".to_owned()
                } else {
                    self.reasons.join("; ")
                };
                Err(format!(
                    "{} bytes are missing: {why}",
                    self.pull.left_bytes()
                ))
            }
            _ => Ok(()),
        }
    }

    /// Brings holders into the pull that are not in it, nearest first.
    async fn look_for_holders(&mut self) {
        self.shunned.retain(|_, since| since.elapsed() < SHUN);
        for holder in self.peers.holders(self.handle.manifest_id) {
            if self.sessions.len() >= HOLDERS_MAX {
                return;
            }
            let known = self.sessions.contains_key(&holder.number);
            if known || self.shunned.contains_key(&holder.number) {
                continue;
            }
            let opened = async {
                let link = self
                    .peers
                    .link_to(&holder)
                    .await
                    .map_err(|e| format!("{e:#}"))?;
                let events = self.events.0.clone();
                let manifest = self.handle.manifest_id;
                let session = Session::open(link, manifest, events, self.class).await;
                session.map_err(|e| e.to_string())
            };
            match opened.await {
                Ok(session) => {
                    let info = PeerInfo {
                        distance: holder.distance,
                        rtt: session.link.rtt(),
                    };
                    // Believed until its own word comes, which saves a round trip.
                    let have = if holder.complete {
                        Have::All
                    } else {
                        Have::Part(Default::default())
                    };
                    self.sessions.insert(holder.number, session);
                    let now = self.now();
                    self.pull.add_peer(holder.number, info, have, now);
                    // Others join while the first is at work already.
                    if self.act().is_err() {
                        return;
                    }
                }
                Err(reason) => {
                    tracing::debug!(peer = holder.name, reason, "holder not reached");
                    self.reasons.push(format!("{}: {reason}", holder.name));
                    self.shunned.insert(holder.number, Instant::now());
                }
            }
        }
    }

    async fn commit(&mut self) -> Result<(), String> {
        self.store_in = None;
        loop {
            match self.stored.recv().await {
                Some(Stored::Committed) => return Ok(()),
                Some(Stored::Failed(reason)) => return Err(reason),
                Some(Stored::Chunks { .. } | Stored::Done { .. }) => {}
                None => return Err("the store's writer ended".into()),
            }
        }
    }

    async fn finish(mut self, result: Result<(), String>) {
        self.store_in = None;
        let receipt = self.receipt(&result);
        self.sessions.clear();
        if result.is_ok() {
            self.peers
                .metrics
                .pull(receipt.seconds, receipt.bound_seconds);
            self.peers.holding_changed(self.handle.manifest_id).await;
        }
        self.peers.receipts.add(receipt);
        {
            let mut active = self.peers.pulls.active.lock();
            if active
                .get(&self.handle.manifest_id)
                .is_some_and(|p| Arc::ptr_eq(p, &self.handle))
            {
                active.remove(&self.handle.manifest_id);
            }
        }
        self.handle.outcome.send_replace(Some(result));
        self.handle.arrived.notify_waiters();
        drop(self.lease);
    }

    fn receipt(&self, result: &Result<(), String>) -> Receipt {
        let manifest = &self.handle.manifest;
        let seconds = self.epoch.elapsed().as_secs_f64();
        let wire: u64 = self.bytes.values().map(|(_, b)| b.wire).sum();
        // Rates are of uncompressed bytes; the bound is in bytes of the wire.
        let rates: Vec<(u64, f64)> = self
            .bytes
            .iter()
            .filter(|(_, (_, bytes))| bytes.raw > 0)
            .filter_map(|(peer, (_, bytes))| {
                let rate = self.pull.rate(*peer)?;
                Some((*peer, rate * bytes.wire as f64 / bytes.raw as f64))
            })
            .collect();
        let all = Class {
            holders: (0..rates.len()).collect(),
            bytes: wire,
        };
        let bound = lower_bound(&rates, &[all], None);
        let name = |peer: &u64| self.bytes.get(peer).map(|(name, _)| name.clone());
        Receipt {
            pull: self.number,
            image: self.image,
            manifest: self.handle.manifest_id.to_string(),
            site: self.peers.site.clone(),
            started_at: crate::glance::document::time(self.started_ms),
            seconds,
            image_bytes: manifest.size(),
            hole_bytes: manifest.size() - manifest.data_size(),
            local_bytes: self.local_bytes,
            peers: self.bytes.values().cloned().collect(),
            encoding: "zstd frames",
            bound_seconds: (wire > 0 && bound.seconds > 0.0).then_some(bound.seconds),
            bottleneck: bound.bottleneck.iter().filter_map(name).collect(),
            outcome: match result {
                Ok(()) => "complete".into(),
                Err(reason) => format!(
                    "{reason} ({} of {} bytes arrived)",
                    self.missing_bytes - self.pull.left_bytes(),
                    self.missing_bytes
                ),
            },
        }
    }
}

/// Stores frames as they come, on a thread of its own, and commits at the end.
fn store_frames(
    store: &Store,
    lease: Arc<Lease>,
    mut jobs: mpsc::Receiver<Job>,
    out: &mpsc::UnboundedSender<Stored>,
) {
    let run = || -> Result<(), vitrail_chunkstore::Error> {
        let mut writer = store.writer(lease)?;
        while let Some(job) = jobs.blocking_recv() {
            let stored = match job {
                Job::Frame {
                    peer,
                    request,
                    frame,
                    chunks,
                    indexes,
                    wanted,
                } => {
                    writer.put_frame(&frame, chunks, &wanted)?;
                    Stored::Chunks {
                        peer,
                        request,
                        indexes,
                    }
                }
                Job::Done {
                    peer,
                    request,
                    missing,
                } => Stored::Done {
                    peer,
                    request,
                    missing,
                },
            };
            // A pull that has ended listens no more; what came is stored all the same.
            let _gone = out.send(stored);
        }
        writer.commit()
    };
    let last = match run() {
        Ok(()) => Stored::Committed,
        Err(error) => Stored::Failed(error.to_string()),
    };
    let _gone = out.send(last);
}
