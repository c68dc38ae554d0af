//! Driving the gossip core: a thread of its own, since it writes to the catalogue, and a stream for each neighbour.

mod driver;
mod kept;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vitrail_chunkstore::Store;
use vitrail_proto::clock::site_number;
use vitrail_proto::fetch::Have;
use vitrail_proto::gossip::{self as core, ConnectionId, Holding, MESSAGE_LEN_MAX, Now, Target};
use vitrail_proto::id::ManifestId;
use vitrail_proto::runs::Runs;

use super::links::{Link, code};
use super::message::{self, MessageError};
use super::view::SiteView;
use super::{Holder, Peers};
use crate::catalogue::{Catalogue, Intent, now_ms};
use crate::config::Config;
use driver::Driver;
pub(super) use kept::held;
use kept::{Records, read_start};

/// The space in which the core's state is kept between runs.
pub const SPACE: &str = "mesh";

/// What happened and waits for the core; a neighbour that sends more is slowed down.
const INPUTS_MAX: usize = 1024;
/// Messages made ahead for one neighbour.
const MESSAGES_MAX: usize = 2;

/// The core and the way to its thread.
pub(super) struct Gossip {
    core: Arc<Mutex<core::Gossip>>,
    inputs: mpsc::Sender<Input>,
    receiver: Mutex<Option<mpsc::Receiver<Input>>>,
    next_connection: AtomicU64,
    epoch: Instant,
    holdings: Notify,
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
    /// Another daemon with our name was met at one of these addresses.
    Rival(Vec<String>),
    /// A pull has brought these chunks of a manifest so far.
    Part(ManifestId, Runs),
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
            holdings: Notify::new(),
        })
    }

    pub(super) fn is_neighbour(&self, site: u64) -> bool {
        self.core.lock().neighbours().any(|number| number == site)
    }

    /// Ends when what some site holds, or whether it is up, has changed since this was called.
    pub(super) fn holdings_changed(&self) -> Notified<'_> {
        self.holdings.notified()
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

    /// A site's name, or its number if that is all that is known.
    pub(super) fn name_of(&self, number: u64) -> String {
        let sites = self.core.lock().sites();
        let site = sites.into_iter().find(|site| site.number == number);
        site.map_or_else(|| format!("{number:016x}"), |site| site.info.name)
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
                    have: match holding {
                        Holding::Complete => Have::All,
                        Holding::Part(runs) => Have::Part(runs.clone()),
                        Holding::None => return None,
                    },
                    distance: u8::from(!near),
                })
            })
            .collect()
    }

    /// The manifests that this site told to hold whole.
    pub(super) fn held_whole(&self) -> HashSet<ManifestId> {
        let core = self.core.lock();
        let own = core.holdings(core.number()).into_iter();
        own.filter(|(_, holding)| *holding == Holding::Complete)
            .map(|(id, _)| id)
            .collect()
    }

    /// How often something that others told was not taken in, because there was no room for it.
    pub(super) fn refused(&self) -> u64 {
        self.core.lock().refused()
    }

    /// Names of the sites that hold a manifest whole.
    pub(super) fn complete_holders(&self, id: ManifestId) -> Vec<String> {
        self.core.lock().complete_holders(&id)
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

    /// What this site holds of a manifest, or means to, may have changed. When this returns, this site says so.
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

    /// A pull has brought these chunks of a manifest so far: others may have them from here.
    pub(super) async fn tell_part(&self, id: ManifestId, chunks: Runs) {
        self.gossip.tell(Input::Part(id, chunks)).await;
    }

    /// Names of the sites that hold a manifest whole, in order. Sites that are down too.
    pub fn holder_names(&self, id: ManifestId) -> Vec<String> {
        let mut names = self.gossip.complete_holders(id);
        names.sort();
        names
    }
}
