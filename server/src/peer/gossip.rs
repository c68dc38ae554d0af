//! Driving the gossip core: a thread of its own, since it writes to the catalogue, and a stream for each neighbour.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vitrail_chunkstore::Store;
use vitrail_chunkstore::db::{Batch, Durability};
use vitrail_proto::clock::site_number;
use vitrail_proto::gossip::{
    self as core, CatalogueFailed, ConnectionId, Event, Holding, MESSAGE_LEN_MAX, Now, Output,
    Snapshot, Start, Target,
};
use vitrail_proto::id::ManifestId;
use vitrail_proto::record::{Merge, Record};
use vitrail_proto::wire::StreamKind;

use super::links::{Link, code};
use super::message::{self, MessageError};
use super::view::SiteView;
use super::{Holder, Peers};
use crate::catalogue::{Catalogue, Intent, now_ms};
use crate::config::Config;

/// The space in which the core's state is kept between runs.
pub const SPACE: &str = "mesh";
const SNAPSHOT: &[u8] = b"snapshot";
const CLEAN: &[u8] = b"clean";
/// Prefix of the keys of manifests that this site holds whole.
const HELD: &[u8] = b"held/";

/// What happened and waits for the core; a neighbour that sends more is slowed down.
const INPUTS_MAX: usize = 1024;
/// Messages made ahead for one neighbour.
const MESSAGES_MAX: usize = 2;
/// How often the core's state is written down.
const SAVE_INTERVAL: Duration = Duration::from_secs(30);
/// How often links are measured for the core.
const MEASURE_INTERVAL: Duration = Duration::from_secs(15);

/// The core and the way to its thread.
pub(super) struct Gossip {
    core: Arc<Mutex<core::Gossip>>,
    inputs: mpsc::Sender<Input>,
    receiver: Mutex<Option<mpsc::Receiver<Input>>>,
    next_connection: AtomicU64,
    epoch: Instant,
}

enum Input {
    Connected {
        connection: ConnectionId,
        link: Arc<Link>,
        dialled: Option<Target>,
        out: mpsc::Sender<Vec<u8>>,
    },
    Disconnected(ConnectionId),
    Message(ConnectionId, Bytes),
    Writable(ConnectionId),
    DialFailed(Target),
    Written(Uuid),
    /// What this site holds of a manifest may have changed; who waits for that to be known is told.
    Held(ManifestId, oneshot::Sender<()>),
}

impl Gossip {
    /// Reads what was known when the daemon stopped.
    pub(super) fn new(
        config: &Config,
        advertise: String,
        store: &Store,
        catalogue: Arc<Catalogue>,
    ) -> anyhow::Result<Self> {
        let epoch = Instant::now();
        let start = read_start(store)?;
        let peer = &config.peer;
        let config = core::Config {
            name: config.site.name.clone(),
            zone: config.site.zone.clone().unwrap_or_default(),
            software: concat!("vitraild ", env!("CARGO_PKG_VERSION")).into(),
            seeds: peer
                .seeds
                .iter()
                .filter(|seed| **seed != advertise)
                .cloned()
                .collect(),
            addresses: vec![advertise],
        };
        let seed = rand::random();
        let now = Now {
            monotonic: Duration::ZERO,
            unix_ms: now_ms(),
        };
        let core = core::Gossip::new(config, start, now, seed, &Records(catalogue));
        let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
        Ok(Self {
            core: Arc::new(Mutex::new(core)),
            inputs,
            receiver: Mutex::new(Some(receiver)),
            next_connection: AtomicU64::new(0),
            epoch,
        })
    }

    pub(super) fn is_neighbour(&self, site: u64) -> bool {
        self.core.lock().neighbours().any(|number| number == site)
    }

    /// Whether a site is up, as far as this one knows.
    pub(super) fn is_up(&self, site: &str) -> bool {
        self.core.lock().is_up(site_number(site))
    }

    pub(super) fn addresses(&self, site: &str) -> Option<Vec<String>> {
        let number = site_number(site);
        let sites = self.core.lock().sites();
        sites
            .into_iter()
            .find(|s| s.number == number)
            .map(|s| s.info.addresses)
    }

    /// Other sites that are up and say to hold something of a manifest.
    pub(super) fn holders(&self, id: ManifestId, zone: Option<&str>) -> Vec<Holder> {
        let core = self.core.lock();
        let holders: HashMap<u64, Holding> = core.holders(&id).into_iter().collect();
        let own = core.number();
        core.sites()
            .into_iter()
            .filter(|site| site.number != own && site.up)
            .filter_map(|site| {
                let holding = holders.get(&site.number)?;
                let near = zone.is_some_and(|zone| zone == site.info.zone);
                Some(Holder {
                    number: site.number,
                    name: site.info.name,
                    addresses: site.info.addresses,
                    complete: matches!(holding, Holding::Complete),
                    distance: u8::from(!near),
                })
            })
            .collect()
    }

    /// Names of the sites that hold a manifest whole.
    pub(super) fn complete_holders(&self, id: ManifestId) -> Vec<String> {
        let core = self.core.lock();
        let complete: Vec<u64> = core
            .holders(&id)
            .into_iter()
            .filter(|(_, holding)| matches!(holding, Holding::Complete))
            .map(|(site, _)| site)
            .collect();
        let sites = core.sites().into_iter();
        sites
            .filter(|s| complete.contains(&s.number))
            .map(|s| s.info.name)
            .collect()
    }

    pub(super) fn sites(&self) -> Vec<SiteView> {
        let core = self.core.lock();
        core.sites()
            .into_iter()
            .map(|site| SiteView {
                images_held: core
                    .holdings(site.number)
                    .values()
                    .filter(|holding| matches!(holding, Holding::Complete))
                    .count(),
                name: site.info.name,
                zone: Some(site.info.zone).filter(|zone| !zone.is_empty()),
                addresses: site.info.addresses,
                own: site.number == core.number(),
                up: site.up,
                link: None,
            })
            .collect()
    }

    pub(super) fn site_names(&self) -> Vec<String> {
        let sites = self.core.lock().sites();
        sites.into_iter().map(|site| site.info.name).collect()
    }

    /// Whether a site holds a manifest whole; none if it has nothing of it.
    pub(super) fn holds(&self, site: &str, id: ManifestId) -> Option<bool> {
        let number = site_number(site);
        let holders = self.core.lock().holders(&id);
        let (_, holding) = holders.into_iter().find(|(site, _)| *site == number)?;
        Some(matches!(holding, Holding::Complete))
    }

    async fn tell(&self, input: Input) {
        // The thread is gone only when the daemon stops.
        let _stopping = self.inputs.send(input).await;
    }
}

impl Peers {
    /// Starts the core's thread, and tells it of every write to the catalogue.
    pub(super) fn start_gossip(self: Arc<Self>, stop: CancellationToken) {
        let Some(receiver) = self.gossip.receiver.lock().take() else {
            return;
        };
        let inputs = self.gossip.inputs.clone();
        self.catalogue.set_listener(move |id| {
            // Called by threads that may wait. The core lags at most by its queue.
            let _stopping = inputs.blocking_send(Input::Written(id));
        });
        let runtime = tokio::runtime::Handle::current();
        let tasks = self.tasks.clone();
        // A blocking thread for as long as the daemon runs.
        tasks.spawn_blocking(move || Driver::new(self, runtime).run(receiver, &stop));
    }

    /// A neighbour has opened its gossip stream.
    pub(super) async fn accept_gossip(
        self: Arc<Self>,
        link: Arc<Link>,
        send: SendStream,
        recv: RecvStream,
    ) -> Result<(), MessageError> {
        self.gossip_over(link, send, recv, None).await
    }

    async fn gossip_over(
        &self,
        link: Arc<Link>,
        mut send: SendStream,
        mut recv: RecvStream,
        dialled: Option<Target>,
    ) -> Result<(), MessageError> {
        let connection = self.gossip.next_connection.fetch_add(1, Ordering::Relaxed);
        let (out, mut queue) = mpsc::channel::<Vec<u8>>(MESSAGES_MAX);
        let input = Input::Connected {
            connection,
            link: link.clone(),
            dialled,
            out,
        };
        self.gossip.tell(input).await;
        let inputs = self.gossip.inputs.clone();
        let writer = async {
            while let Some(message) = queue.recv().await {
                message::write(&mut send, &message).await?;
                // The core makes the next message when there is room for it.
                let _stopping = inputs.send(Input::Writable(connection)).await;
            }
            // The core has hung up.
            let _closed = send.finish();
            Ok(())
        };
        let reader = async {
            while let Some(message) = message::read(&mut recv, MESSAGE_LEN_MAX).await? {
                self.gossip.tell(Input::Message(connection, message)).await;
            }
            Ok::<(), MessageError>(())
        };
        let result = tokio::select! {
            result = writer => result,
            result = reader => result,
        };
        let _closed = recv.stop(code::NOT_NEEDED);
        self.gossip.tell(Input::Disconnected(connection)).await;
        result
    }

    /// What this site holds of a manifest, or means to, has changed. When this returns, this site says so.
    pub async fn holding_changed(&self, id: ManifestId) {
        let (done, told) = oneshot::channel();
        self.gossip.tell(Input::Held(id, done)).await;
        // The thread ends only when the daemon stops.
        let _stopping = told.await;
    }

    /// All of a manifest has come, under a lease that still lives. A copy that was given up is one again.
    pub(super) async fn copy_arrived(&self, id: ManifestId) {
        let catalogue = self.catalogue.clone();
        let written = super::serve::blocking(move || {
            let copies = catalogue.copies();
            match copies.intent(id) {
                Some(Intent::Evict | Intent::Fetch) => copies.set(id, None),
                Some(Intent::Keep) | None => Ok(()),
            }
        });
        if let Some(Err(error)) = written.await {
            tracing::error!(%error, manifest = %id, "the copy may be collected again");
        }
        self.holding_changed(id).await;
    }

    /// Names of the sites that hold a manifest whole, in order. Sites that are down too.
    pub fn holder_names(&self, id: ManifestId) -> Vec<String> {
        let mut names = self.gossip.complete_holders(id);
        names.sort();
        names
    }
}

/// The thread.
struct Driver {
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
    fn new(peers: Arc<Peers>, runtime: tokio::runtime::Handle) -> Self {
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

    fn run(mut self, mut inputs: mpsc::Receiver<Input>, stop: &CancellationToken) {
        self.save(false);
        // Images that were made before the site joined, or while it was stopped.
        for id in self.peers.catalogue.images().iter().map(|image| image.id) {
            self.look_at_image(id);
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
        let name = |number: u64| {
            let sites = self.core.lock().sites();
            let site = sites.into_iter().find(|site| site.number == number);
            site.map_or_else(|| format!("{number:016x}"), |site| site.info.name)
        };
        match event {
            Event::SiteUp(site) => tracing::info!(site = name(site), "site is up"),
            Event::SiteDown(site) => tracing::warn!(site = name(site), "site is down"),
            Event::SiteChanged(_) | Event::HoldingChanged(..) => {}
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
            Event::Outranked { addresses } => tracing::error!(
                ?addresses,
                "another daemon with our site's name was started later: this one is out of the mesh. Every site \
                 needs a name and a certificate of its own"
            ),
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
        let named = self.manifests.values().any(|manifest| *manifest == id);
        let leaving = self.peers.catalogue.copies().is_leaving(id);
        let complete = named && !leaving && holds_whole(&self.peers.store, id);
        let now = self.now();
        let own = {
            let core = self.core.lock();
            let number = core.number();
            core.holders(&id)
                .into_iter()
                .any(|(site, _)| site == number)
        };
        if complete == own {
            return;
        }
        let holding = if complete {
            Holding::Complete
        } else {
            Holding::None
        };
        self.core.lock().set_holding(id, &holding, now);
        let mut batch = Batch::new();
        let key = [HELD, id.as_bytes()].concat();
        if complete {
            batch.put(SPACE, &key, Vec::new());
        } else {
            batch.delete(SPACE, &key);
        }
        self.write(batch);
    }

    fn measure(&mut self) {
        let now = self.now();
        let mut core = self.core.lock();
        for (connection, (link, _)) in &self.connections {
            core.handle_measured(*connection, link.rtt(), None, now);
        }
    }

    /// Writes the core's state down. `clean` is said only by the last save of a run.
    fn save(&mut self, clean: bool) {
        let bytes = self.core.lock().export();
        let mut batch = Batch::new();
        batch.put(SPACE, CLEAN, vec![u8::from(clean)]);
        if self.saved.as_ref() != Some(&bytes) {
            batch.put(SPACE, SNAPSHOT, bytes.clone());
        }
        self.write(batch);
        self.saved = Some(bytes);
    }

    fn write(&self, batch: Batch) {
        if let Err(error) = self.peers.store.db().write(batch, Durability::Synced) {
            tracing::error!(%error, "what is known of other sites was not written");
        }
    }
}

/// Whether every chunk of a manifest is in the store.
pub(super) fn holds_whole(store: &Store, id: ManifestId) -> bool {
    let Ok(manifest) = store.manifest(id) else {
        return false;
    };
    let chunks: Vec<_> = manifest.chunks().collect();
    super::serve::held(store, &chunks).is_ok_and(|held| held.count() == chunks.len() as u64)
}

fn read_start(store: &Store) -> anyhow::Result<Start> {
    let snapshot = match store.db().get(SPACE, SNAPSHOT)? {
        None => None,
        Some(bytes) => match Snapshot::decode(&bytes) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                tracing::warn!(%error, "what was known of other sites cannot be read; it is learnt anew");
                None
            }
        },
    };
    let clean = store
        .db()
        .get(SPACE, CLEAN)?
        .is_some_and(|value| value == [1]);
    let mut holdings = BTreeMap::new();
    for row in store.db().rows(SPACE, HELD)? {
        let (key, _) = row?;
        let Some(id) = key.strip_prefix(HELD).and_then(|id| id.try_into().ok()) else {
            break;
        };
        holdings.insert(ManifestId::from_bytes(id), Holding::Complete);
    }
    Ok(Start {
        snapshot,
        clean,
        holdings,
    })
}

/// The catalogue as the core sees it.
struct Records(Arc<Catalogue>);

impl core::Catalogue for Records {
    fn ids(&self) -> Vec<Uuid> {
        self.0.all_ids()
    }

    fn record(&self, id: Uuid) -> Option<Record> {
        self.0.record(id).ok().flatten()
    }

    fn merge(&mut self, record: Record) -> Result<Merge, CatalogueFailed> {
        self.0.merge(record).map_err(failed)
    }

    fn replace(&mut self, record: Record) -> Result<(), CatalogueFailed> {
        self.0.replace(record).map_err(failed)
    }

    fn forget(&mut self, id: Uuid) -> Result<(), CatalogueFailed> {
        self.0.forget(id).map_err(failed)
    }
}

fn failed(error: crate::catalogue::CatalogueError) -> CatalogueFailed {
    tracing::error!(%error, "a record from elsewhere was not taken");
    CatalogueFailed
}
