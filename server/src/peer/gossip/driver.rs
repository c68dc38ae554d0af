//! The thread that drives the core: what happened goes in, what it wants is done.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vitrail_proto::gossip::{self as core, ConnectionId, Event, Holding, Now, Output, Target};
use vitrail_proto::id::ManifestId;
use vitrail_proto::record::Merge;
use vitrail_proto::wire::StreamKind;

use super::Input;
use super::kept::{self, Records};
use crate::catalogue::now_ms;
use crate::peer::Peers;
use crate::peer::links::Link;

/// How often the core's state is written down.
const SAVE_INTERVAL: Duration = Duration::from_secs(30);
/// How often links are measured for the core.
const MEASURE_INTERVAL: Duration = Duration::from_secs(15);

/// The thread.
pub(super) struct Driver {
    peers: Arc<Peers>,
    core: Arc<Mutex<core::Gossip>>,
    runtime: tokio::runtime::Handle,
    records: Records,
    connections: HashMap<ConnectionId, (Arc<Link>, mpsc::Sender<Vec<u8>>)>,
    /// What images named when they were last looked at.
    manifests: HashMap<Uuid, ManifestId>,
    saved: Option<Vec<u8>>,
}

impl Driver {
    pub(super) fn new(peers: Arc<Peers>, runtime: tokio::runtime::Handle) -> Self {
        let manifests = peers
            .catalogue
            .images()
            .iter()
            .filter_map(|image| Some((image.id, image.manifest()?)))
            .collect();
        Self {
            core: peers.gossip.core.clone(),
            records: Records(peers.catalogue.clone()),
            connections: HashMap::new(),
            peers,
            runtime,
            manifests,
            saved: None,
        }
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.peers.gossip.epoch.elapsed(),
            unix_ms: now_ms(),
        }
    }

    pub(super) fn run(mut self, mut inputs: mpsc::Receiver<Input>, stop: &CancellationToken) {
        self.save(false);
        self.measure();
        // What was stored before the site joined, or was not told before it stopped.
        let whole = self.peers.gossip.held_whole();
        let named: HashSet<ManifestId> = self.manifests.values().copied().collect();
        for id in named.difference(&whole) {
            self.look_at_manifest(*id);
        }
        let (mut saved, mut measured) = (Instant::now(), Instant::now());
        loop {
            self.pump();
            let due = self.core.lock().poll_timeout();
            let wait = due
                .map_or(SAVE_INTERVAL, |due| {
                    due.saturating_sub(self.now().monotonic)
                })
                .min(MEASURE_INTERVAL);
            let input = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => None,
                    input = tokio::time::timeout(wait, inputs.recv()) => Some(input),
                }
            });
            match input {
                None => break,
                Some(Ok(Some(input))) => self.handle(input),
                Some(Ok(None)) => break,
                Some(Err(_)) => {}
            }
            let now = self.now();
            if due.is_some_and(|due| due <= now.monotonic) {
                self.core.lock().handle_timeout(now, &mut self.records);
            }
            if measured.elapsed() >= MEASURE_INTERVAL {
                measured = Instant::now();
                self.measure();
            }
            if saved.elapsed() >= SAVE_INTERVAL {
                saved = Instant::now();
                self.save(false);
            }
        }
        self.save(true);
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Connected {
                connection,
                link,
                dialled,
                out,
            } => {
                self.connections.insert(connection, (link.clone(), out));
                self.core
                    .lock()
                    .handle_connected(connection, &link.site, dialled, now);
            }
            Input::Disconnected(connection) => {
                self.connections.remove(&connection);
                self.core.lock().handle_disconnected(connection, now);
            }
            Input::Message(connection, bytes) => {
                self.core
                    .lock()
                    .handle_message(connection, &bytes, now, &mut self.records);
            }
            Input::Writable(connection) => self.send(connection),
            Input::DialFailed(target) => self.core.lock().handle_dial_failed(target, now),
            Input::Written(id) => {
                self.core.lock().handle_written(id, now, &self.records);
                self.look_at_image(id);
            }
            Input::Held(id, done) => {
                self.look_at_manifest(id);
                // Who asked may have gone.
                let _gone = done.send(());
            }
            Input::Rival(addresses) => self.core.lock().handle_rival(addresses, now),
            Input::Part(id, runs) => {
                if self.is_kept(id) {
                    self.tell_holding(id, &Holding::Part(runs));
                }
            }
        }
    }

    fn pump(&mut self) {
        loop {
            let output = self.core.lock().poll();
            match output {
                None => return,
                Some(Output::Ready(connection)) => self.send(connection),
                Some(Output::Dial { target, addresses }) => self.dial(target, addresses),
                Some(Output::HangUp { connection, reason }) => {
                    if let Some((link, _)) = self.connections.remove(&connection) {
                        tracing::debug!(peer = link.site, reason, "gossip ended");
                    }
                }
                Some(Output::Event(event)) => self.tell(event),
            }
        }
    }

    /// Gives a neighbour's stream what it can take.
    fn send(&mut self, connection: ConnectionId) {
        let Some((_, out)) = self.connections.get(&connection) else {
            return;
        };
        while let Ok(slot) = out.try_reserve() {
            let now = self.now();
            let message = self
                .core
                .lock()
                .poll_message(connection, now, &self.records);
            match message {
                Some(message) => slot.send(message),
                None => return,
            }
        }
    }

    fn dial(&self, target: Target, addresses: Vec<String>) {
        let peers = self.peers.clone();
        let name = match &target {
            Target::Seed(_) => None,
            Target::Site(number) => {
                let sites = self.core.lock().sites();
                sites
                    .into_iter()
                    .find(|site| site.number == *number)
                    .map(|site| site.info.name)
            }
        };
        let dial = async move {
            let opened = async {
                let link = peers.links.connect(name.as_deref(), &addresses).await?;
                let (mut send, recv) = link.connection.open_bi().await?;
                send.write_all(&[StreamKind::Gossip.number()]).await?;
                anyhow::Ok((link, send, recv))
            };
            match opened.await {
                Ok((link, send, recv)) => {
                    let site = link.site.clone();
                    let ended = peers.gossip_over(link, send, recv, Some(target)).await;
                    if let Err(error) = ended {
                        tracing::debug!(peer = site, %error, "gossip ended");
                    }
                }
                Err(error) => {
                    tracing::info!(?target, error = format!("{error:#}"), "not reached");
                    peers.gossip.tell(Input::DialFailed(target)).await;
                }
            }
        };
        self.peers.tasks.spawn_on(dial, &self.runtime);
    }

    fn tell(&mut self, event: Event) {
        let name = |number: u64| self.peers.gossip.name_of(number);
        match event {
            Event::SiteUp(site) => {
                tracing::info!(site = name(site), "site is up");
                self.peers.gossip.holdings.notify_waiters();
                self.peers.retry_repairs();
            }
            Event::SiteDown(site) => tracing::warn!(site = name(site), "site is down"),
            Event::HoldingChanged(..) => self.peers.gossip.holdings.notify_waiters(),
            Event::SiteChanged(_) => {}
            Event::RecordMerged(id, merge) => {
                if matches!(merge, Merge::TookTheirs | Merge::KeptOurs) {
                    tracing::warn!(
                        %id,
                        ours = matches!(merge, Merge::KeptOurs),
                        "two sites created images with this id while they were cut off from each other; the \
                         one created first stays, the other is void"
                    );
                }
                self.look_at_image(id);
            }
            Event::ClockAhead {
                neighbour,
                site,
                ahead_ms,
            } => tracing::warn!(
                neighbour,
                site = name(site),
                ahead_ms,
                "a site's clock is ahead of ours; what it wrote is not taken. Set one of the two clocks right"
            ),
            Event::Disputed { neighbour } => {
                tracing::warn!(
                    neighbour,
                    "others know things of us that we did not say; we say it all anew"
                );
            }
            Event::Rival { addresses } => {
                let peers = self.peers.clone();
                let look = async move {
                    if peers.links.finds_namesake(&addresses).await {
                        peers.gossip.tell(Input::Rival(addresses)).await;
                    } else {
                        tracing::warn!(
                            ?addresses,
                            "others were told of a later daemon with our site's name, but none answers there"
                        );
                    }
                };
                self.peers.tasks.spawn_on(look, &self.runtime);
            }
            Event::Outranked { addresses } => {
                self.peers.links.leave();
                tracing::error!(
                    ?addresses,
                    "another daemon with our site's name was started later: this one is out of the mesh. Every site \
                 needs a name and a certificate of its own"
                );
            }
            Event::Returned { dropped } => {
                tracing::warn!(
                    dropped = dropped.len(),
                    "back after a long absence; old records were dropped"
                );
            }
            Event::TooMuchToTell => tracing::error!("there is no room to tell more of this site"),
        }
    }

    /// An image may name other bytes than before.
    fn look_at_image(&mut self, id: Uuid) {
        let image = self.peers.catalogue.get(id);
        let manifest = image.as_ref().and_then(|image| image.manifest());
        let size = image.as_ref().and_then(|image| image.size()).unwrap_or(0);
        let before = match manifest {
            Some(manifest) => self.manifests.insert(id, manifest),
            None => self.manifests.remove(&id),
        };
        if let Some(gone) = before.filter(|before| manifest != Some(*before)) {
            self.look_at_manifest(gone);
        }
        if let Some(new) = manifest.filter(|new| before != Some(*new)) {
            self.look_at_manifest(new);
            self.peers.manifests.announce(new, size);
        }
    }

    /// What this site holds of a manifest may have changed.
    fn look_at_manifest(&mut self, id: ManifestId) {
        let holding = match self.is_kept(id) {
            true => kept::held(&self.peers.store, id),
            false => Holding::None,
        };
        self.tell_holding(id, &holding);
    }

    /// Whether an image names it, and its chunks are not about to be collected all the same.
    fn is_kept(&self, id: ManifestId) -> bool {
        let named = self.manifests.values().any(|manifest| *manifest == id);
        named && !self.peers.catalogue.copies().is_leaving(id)
    }

    fn tell_holding(&mut self, id: ManifestId, holding: &Holding) {
        let now = self.now();
        if self.core.lock().set_holding(id, holding, now) {
            kept::write_holding(&self.peers.store, id, holding);
        }
    }

    fn measure(&mut self) {
        let now = self.now();
        let mut core = self.core.lock();
        let contact_ms = core.last_contact_ms().unwrap_or(0);
        self.peers.catalogue.set_contact(contact_ms);
        for (connection, (link, _)) in &self.connections {
            core.handle_measured(*connection, link.rtt(), None, now);
        }
    }

    /// Writes the core's state down. `clean` is said only by the last save of a run.
    fn save(&mut self, clean: bool) {
        let bytes = self.core.lock().export();
        let changed = self.saved.as_ref() != Some(&bytes);
        kept::write_snapshot(&self.peers.store, changed.then(|| bytes.clone()), clean);
        self.saved = Some(bytes);
    }
}
