//! Other sites: who they are, what they hold, and moving bytes between them.
//!
//! The decisions are in `vitrail-proto`: [`vitrail_proto::gossip`] for who holds what, [`vitrail_proto::fetch`] for who is
//! asked for what. Here are the sockets, clocks and disks around them: [`links`] keeps the connections, [`congestion`],
//! [`budget`], [`socket`] and [`window`] say how much may be sent on them, `gossip` drives the gossip core, `serve` and `session`
//! are the two ends of a fetch, `manifests` brings manifests and `pull` chunks, `ask`, `preseed` and `evict` are
//! questions and long errands.

mod ask;
pub mod budget;
pub mod congestion;
mod evict;
mod gossip;
mod identity;
pub mod links;
mod manifests;
mod message;
mod prefetch;
mod preseed;
mod pull;
pub mod receipt;
mod repair;
mod serve;
mod session;
pub mod socket;
pub mod transport;
pub mod view;
pub mod window;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vitrail_chunkstore::Store;
use vitrail_proto::clock::site_number;
use vitrail_proto::fetch::Have;
use vitrail_proto::id::ManifestId;
use vitrail_proto::wire::StreamKind;

use crate::catalogue::Catalogue;
use crate::config::{Config, ExperimentConfig};
use crate::metrics::Metrics;
use gossip::Gossip;
pub use gossip::SPACE;
use identity::Files;
use links::{Link, Links, NewLink, code};
use manifests::Manifests;
use message::MessageError;
pub use prefetch::CachedCopy;
pub use preseed::{PreseedProgress, PreseedResult};
use pull::Pulls;
pub use pull::{Interest, PullHandle};
use receipt::Receipts;
use repair::Repairs;
use window::Windows;

/// How often unused links are closed and certificate files are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// One part in so many of the store's memory is for what is under way on connections.
const WINDOWS_SHARE: u64 = 2;

/// How long a stop waits for work with other sites.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(10);

/// This site's end of the mesh.
pub struct Peers {
    store: Store,
    catalogue: Arc<Catalogue>,
    /// Name of this site.
    pub site: String,
    zone: Option<String>,
    /// Connections.
    pub links: Arc<Links>,
    gossip: Gossip,
    manifests: Manifests,
    pulls: Arc<Pulls>,
    repairs: Repairs,
    /// What pulls have cost.
    pub receipts: Receipts,
    server: serve::Server,
    metrics: Arc<Metrics>,
    /// This site's.
    number: u64,
    experiment: ExperimentConfig,
    /// Everything that works with the store; a stop waits for it.
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A site that holds a manifest, or a part of it.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    number: u64,
    name: String,
    addresses: Vec<String>,
    /// How much of it, as far as gossip tells.
    have: Have,
    /// 0 in our zone, 1 elsewhere.
    distance: u8,
}

impl Peers {
    /// Joins the mesh, if the configuration has certificates for one.
    pub async fn start(
        config: &Config,
        store: Store,
        catalogue: Arc<Catalogue>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(files) = Files::of(&config.peer)? else {
            return Ok(None);
        };
        let (arrivals, new_links) = mpsc::channel(64);
        let links = Links::open(
            config.peer.listen,
            files,
            &config.site.name,
            arrivals,
            metrics.clone(),
            config.limits.clone(),
            Windows::new(config.store.memory.0 / WINDOWS_SHARE),
        )?;
        let advertise = match &config.peer.advertise {
            Some(address) => address.clone(),
            None => links.local_addr()?.to_string(),
        };
        let gossip = Gossip::new(config, advertise, &store, catalogue.clone())
            .context("cannot read what was known of other sites")?;
        let repairs = Repairs::open(&store).context("cannot read what is to be repaired")?;
        let pulls = Arc::new(Pulls::default());
        let server = serve::Server::new(store.clone(), pulls.clone(), config.store.zstd_level);
        let peers = Arc::new(Self {
            store,
            catalogue,
            site: config.site.name.clone(),
            zone: config.site.zone.clone(),
            links,
            gossip,
            manifests: Manifests::new(),
            pulls,
            repairs,
            receipts: Receipts::default(),
            server,
            metrics,
            tasks: TaskTracker::new(),
            stop: stop.clone(),
            number: site_number(&config.site.name),
            experiment: config.experiment.clone(),
        });
        peers.tasks.spawn(peers.links.clone().accept());
        peers
            .tasks
            .spawn(peers.clone().run(new_links, stop.clone()));
        peers.tasks.spawn(peers.clone().fetch_manifests_ahead());
        peers.tasks.spawn(peers.clone().repair());
        peers.tasks.spawn(peers.clone().prefetch(stop.clone()));
        peers.clone().start_gossip(stop);
        Ok(Some(peers))
    }

    /// Waits until nothing here works with the store any more, after the token given to [`Peers::start`] was
    /// cancelled; at most [`STOP_TIME_MAX`].
    pub async fn stopped(&self) {
        self.tasks.close();
        if tokio::time::timeout(STOP_TIME_MAX, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                left = self.tasks.len(),
                "work for other sites did not end in time"
            );
        }
    }

    /// How often something that other sites told was not taken in for lack of room.
    pub fn gossip_refused(&self) -> u64 {
        self.gossip.refused()
    }

    /// Where this site listens for others.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.links.local_addr()
    }

    async fn run(self: Arc<Self>, mut new_links: mpsc::Receiver<NewLink>, stop: CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut modified = self.links.files().modified();
        loop {
            tokio::select! {
                link = new_links.recv() => {
                    let Some(NewLink(link)) = link else { return };
                    self.tasks.spawn(self.clone().serve(link));
                }
                _ = sweep.tick() => {
                    self.links.sweep(|number| self.gossip.is_neighbour(number));
                    let now = self.links.files().modified();
                    if now != modified {
                        match self.links.reload() {
                            Ok(()) => tracing::info!("certificates were read again"),
                            Err(error) => tracing::error!(
                                error = format!("{error:#}"),
                                "changed certificates cannot be used; the old ones stay"
                            ),
                        }
                        modified = now;
                    }
                }
                () = stop.cancelled() => {
                    self.links.close().await;
                    return;
                }
            }
        }
    }

    /// Takes the streams that a peer opens.
    async fn serve(self: Arc<Self>, link: Arc<Link>) {
        loop {
            let (send, recv) = match link.connection.accept_bi().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::info!(peer = link.site, %error, "disconnected");
                    return;
                }
            };
            let (this, link) = (self.clone(), link.clone());
            self.tasks.spawn(async move {
                if let Err(error) = this.serve_stream(&link, send, recv).await {
                    match error {
                        MessageError::Lost(_) => {
                            tracing::debug!(peer = link.site, %error, "stream ended")
                        }
                        _ => tracing::warn!(peer = link.site, %error, "a peer broke the rules"),
                    }
                }
            });
        }
    }

    async fn serve_stream(
        self: Arc<Self>,
        link: &Arc<Link>,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), MessageError> {
        let mut kind = [0];
        recv.read_exact(&mut kind)
            .await
            .map_err(|e| MessageError::Lost(e.to_string()))?;
        match StreamKind::from_number(kind[0]) {
            Ok(StreamKind::Gossip) => self.accept_gossip(link.clone(), send, recv).await,
            Ok(StreamKind::Fetch) => self.server.fetch(link, send, recv).await,
            Ok(StreamKind::Ask) => self.answer(link, send, recv).await,
            Err(error) => {
                let _closed = (send.reset(code::PROTOCOL), recv.stop(code::PROTOCOL));
                Err(error.into())
            }
        }
    }

    /// The link to a holder, dialled if need be.
    async fn link_to(&self, holder: &Holder) -> anyhow::Result<Arc<Link>> {
        self.links
            .connect(Some(&holder.name), &holder.addresses)
            .await
    }

    /// The link to a site by name.
    async fn link_to_name(&self, site: &str) -> anyhow::Result<Arc<Link>> {
        let addresses = self.gossip.addresses(site).with_context(|| {
            format!("site {site:?} is not known here; `vitrail site list` shows all")
        })?;
        self.links.connect(Some(site), &addresses).await
    }

    /// Sites that hold a manifest, or a part of it, nearest first.
    fn holders(&self, id: ManifestId) -> Vec<Holder> {
        let mut holders = self.gossip.holders(id, self.zone.as_deref());
        let rtt = |number| {
            self.links
                .get(number)
                .map_or(Duration::MAX, |link| link.rtt())
        };
        holders.sort_by_key(|h| (h.distance, h.have != Have::All, rtt(h.number), h.number));
        holders
    }
}
