//! Connections to other sites: dialled on demand, kept while they are used, one for each pair of sites.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use parking_lot::{Mutex, RwLock};
use prometheus::IntCounter;
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime};
use tokio::sync::mpsc;
use vitrail_proto::clock::site_number;
use vitrail_proto::congestion::Class;
use vitrail_proto::wire::{PEER_DNS_NAME, PathFigures};

use super::budget::Budget;
use super::congestion::{Gauge, look_after};
use super::identity::{Files, Identity, peer_site};
use super::socket::PacedSocket;
use super::transport;
use super::window::Windows;
use crate::limits::Limits;
use crate::metrics::{LinkCounts, LinkGauges, Metrics};

/// How long a dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Links that nobody has used for so long are closed.
const UNUSED_MAX: Duration = Duration::from_secs(120);
/// Links at once.
const LINKS_MAX: usize = 256;
/// Refused connections that are remembered.
const REFUSED_MAX: usize = 16;

/// Codes with which a connection or stream is closed; they are for people who read traces.
pub(super) mod code {
    use quinn::VarInt;
    pub(in crate::peer) const NOT_NEEDED: VarInt = VarInt::from_u32(1);
    pub(in crate::peer) const NOT_ALLOWED: VarInt = VarInt::from_u32(2);
    pub(in crate::peer) const BUSY: VarInt = VarInt::from_u32(3);
    pub(in crate::peer) const PROTOCOL: VarInt = VarInt::from_u32(4);
    pub(in crate::peer) const STOPPING: VarInt = VarInt::from_u32(5);
}

/// A connection to another site.
pub struct Link {
    /// The site, as its certificate says.
    pub site: String,
    /// Its number.
    pub number: u64,
    pub(super) connection: Connection,
    gauge: Option<Arc<Gauge>>,
    budget: Arc<Budget>,
    /// Streams that serve interactive and background work.
    works: Mutex<[usize; 2]>,
    /// What of its figures is in the metrics already.
    counted: Mutex<LinkCounts>,
    /// Payload received from and sent to the site, after encoding, over all links since the start.
    pub(super) rx_bytes: IntCounter,
    pub(super) tx_bytes: IntCounter,
    last_used: Mutex<Instant>,
}

impl Link {
    fn new(
        site: String,
        connection: Connection,
        metrics: &Metrics,
        budget: Arc<Budget>,
        windows: Arc<Windows>,
    ) -> Arc<Self> {
        let (rx_bytes, tx_bytes) = metrics.peer_bytes(&site);
        let gauge = Gauge::of(&connection);
        budget.register(connection.remote_address(), &site, gauge.clone());
        let link = Self {
            number: site_number(&site),
            site,
            gauge,
            connection,
            budget,
            works: Mutex::default(),
            counted: Mutex::default(),
            rx_bytes,
            tx_bytes,
            last_used: Mutex::new(Instant::now()),
        };
        let (site, connection) = (link.site.clone(), link.connection.clone());
        let budget = link.budget.clone();
        let limit = {
            let connection = connection.clone();
            move |most| budget.window(&site, connection.rtt(), most)
        };
        let gauge = link.gauge.clone();
        tokio::spawn(look_after(connection, gauge, windows, limit));
        Arc::new(link)
    }

    /// Waits until the limits on receiving allow to read so many bytes of payload.
    pub(super) async fn receive(&self, class: Class, payload: usize) {
        self.budget.receive(&self.site, class, payload as u64).await;
    }

    /// Begins to send for work of a class.
    pub(super) fn work(&self, class: Class) -> Work<'_> {
        self.count_work(class, 1);
        Work { link: self, class }
    }

    /// The link is background only while all work on it is.
    fn count_work(&self, class: Class, change: isize) {
        let mut works = self.works.lock();
        let count = &mut works[usize::from(class == Class::Background)];
        *count = count.saturating_add_signed(change);
        let class = match *works {
            [0, background] if background > 0 => Class::Background,
            _ => Class::Interactive,
        };
        if let Some(gauge) = &self.gauge {
            gauge.set_class(class);
        }
    }

    /// Round trip, smoothed.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// What the congestion controller knows of the path.
    pub fn path(&self) -> Option<vitrail_proto::congestion::Snapshot> {
        self.gauge.as_ref().map(|gauge| gauge.snapshot())
    }

    /// What this end tells the other of the path.
    pub(super) fn figures(&self) -> Option<PathFigures> {
        let path = self.path()?;
        let stats = self.connection.stats().path;
        Some(PathFigures {
            rate: path.carries(),
            rtt: Some(self.rtt()),
            rtt_min: path.min_rtt,
            packets_sent: stats.sent_packets,
            packets_lost: stats.lost_packets,
            bytes_lost: stats.lost_bytes,
            state: path.state,
        })
    }

    /// The class of the work for which the link sends.
    pub fn class(&self) -> Class {
        let gauge = self.gauge.as_ref();
        gauge.map_or(Class::Interactive, |gauge| gauge.class())
    }

    fn gauges(&self) -> LinkGauges {
        let path = self.path();
        LinkGauges {
            rate: path.map(|path| path.rate).filter(|rate| *rate > 0),
            rtt: self.rtt().as_secs_f64(),
            rtt_min: path
                .and_then(|path| path.min_rtt)
                .map(|rtt| rtt.as_secs_f64()),
            state: path.map_or("unknown", |path| path.state.name()),
        }
    }

    /// Puts what the link has done since the last time into the metrics.
    fn count(&self, metrics: &Metrics) {
        let path = self.connection.stats().path;
        let all = LinkCounts {
            packets_sent: path.sent_packets,
            packets_lost: path.lost_packets,
            bytes_lost: path.lost_bytes,
        };
        let before = std::mem::replace(&mut *self.counted.lock(), all);
        metrics.links.count(&self.site, all.since(before));
    }

    /// Notes that somebody uses the link.
    pub(super) fn touch(&self) {
        *self.last_used.lock() = Instant::now();
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }
}

/// Work for which a link sends, until it is dropped.
pub(super) struct Work<'a> {
    link: &'a Link,
    class: Class,
}

impl Work<'_> {
    /// It is of another class now.
    pub(super) fn set_class(&mut self, class: Class) {
        self.link.count_work(class, 1);
        self.link.count_work(self.class, -1);
        self.class = class;
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.link.count_work(self.class, -1);
    }
}

/// What only the two ends of a connection know.
type Proof = [u8; 16];

fn proof(connection: &Connection) -> anyhow::Result<Proof> {
    let mut proof = [0; 16];
    connection
        .export_keying_material(&mut proof, b"vitrail namesake", b"")
        .map_err(|_| anyhow::anyhow!("the connection has no keys"))?;
    Ok(proof)
}

/// A new connection, whoever dialled.
pub(super) struct NewLink(pub(super) Arc<Link>);

/// All connections of this site.
pub struct Links {
    endpoint: Endpoint,
    identity: RwLock<Arc<Identity>>,
    files: Files,
    by_site: Mutex<HashMap<u64, Arc<Link>>>,
    /// One dial to an address at a time.
    dialling: tokio::sync::Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Proofs of the last connections that were refused because the other end has our own name.
    refused: Mutex<VecDeque<Proof>>,
    /// Set once this site is out of the mesh.
    left: AtomicBool,
    arrivals: mpsc::Sender<NewLink>,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    windows: Arc<Windows>,
}

impl Links {
    /// Opens the socket. New connections go to `arrivals`.
    pub(super) fn open(
        listen: SocketAddr,
        files: Files,
        site: &str,
        arrivals: mpsc::Sender<NewLink>,
        metrics: Arc<Metrics>,
        limits: Limits,
        windows: Arc<Windows>,
    ) -> anyhow::Result<Arc<Self>> {
        let identity = files.load()?;
        if identity.site != site {
            bail!(
                "[site] name is {site:?} but the certificate is for {:?}; they must be the same",
                identity.site
            );
        }
        let budget = Budget::new(limits);
        let socket = PacedSocket::bind(listen, budget.clone()).with_context(|| {
            format!("cannot listen on UDP {listen}; choose another [peer] listen")
        })?;
        let config = server_config(&identity);
        let runtime = Arc::new(TokioRuntime);
        let quic = EndpointConfig::default();
        let endpoint = Endpoint::new_with_abstract_socket(quic, Some(config), socket, runtime)?;
        Ok(Arc::new(Self {
            endpoint,
            identity: RwLock::new(Arc::new(identity)),
            files,
            by_site: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
            refused: Mutex::default(),
            left: AtomicBool::new(false),
            arrivals,
            metrics,
            budget,
            windows,
        }))
    }

    /// Where this site listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The open link to a site, if there is one.
    pub fn get(&self, number: u64) -> Option<Arc<Link>> {
        self.by_site
            .lock()
            .get(&number)
            .filter(|link| link.is_open())
            .cloned()
    }

    /// All open links.
    pub fn all(&self) -> Vec<Arc<Link>> {
        self.by_site
            .lock()
            .values()
            .filter(|link| link.is_open())
            .cloned()
            .collect()
    }

    /// The link to the site at one of these addresses (`host:port`), dialled if need be. With a
    /// `site`, anybody else who answers is refused.
    pub async fn connect(
        &self,
        site: Option<&str>,
        addresses: &[String],
    ) -> anyhow::Result<Arc<Link>> {
        let existing = || site.and_then(|site| self.get(site_number(site)));
        if let Some(link) = existing() {
            link.touch();
            return Ok(link);
        }
        let key = site.map_or_else(|| addresses.join(","), str::to_owned);
        let turn = self
            .dialling
            .lock()
            .await
            .entry(key.clone())
            .or_default()
            .clone();
        let _turn = turn.lock().await;
        if let Some(link) = existing() {
            return Ok(link);
        }
        let result = self.dial(site, addresses).await;
        self.dialling.lock().await.remove(&key);
        result
    }

    async fn dial(&self, site: Option<&str>, addresses: &[String]) -> anyhow::Result<Arc<Link>> {
        let mut last = anyhow::anyhow!("no address is known for site {}", site.unwrap_or("?"));
        for address in addresses {
            let attempt = tokio::time::timeout(DIAL_TIMEOUT, self.dial_one(site, address)).await;
            match attempt {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => last = error.context(format!("dialling {address}")),
                Err(_) => {
                    last =
                        anyhow::anyhow!("{address} did not answer in {} s", DIAL_TIMEOUT.as_secs());
                }
            }
        }
        Err(last)
    }

    async fn dial_one(&self, site: Option<&str>, address: &str) -> anyhow::Result<Arc<Link>> {
        let connection = self.handshake(address).await?;
        let found = peer_site(&connection)?;
        if site.is_some_and(|site| site != found) {
            connection.close(code::NOT_ALLOWED, b"another site was expected");
            bail!("site {found} answers there");
        }
        self.admit(found, connection).await
    }

    async fn handshake(&self, address: &str) -> anyhow::Result<Connection> {
        let ip = tokio::net::lookup_host(address)
            .await?
            .next()
            .context("the name has no address")?;
        let identity = self.identity.read().clone();
        let mut config = quinn::ClientConfig::new(identity.client.clone());
        config.transport_config(Arc::new(transport::config()));
        Ok(self
            .endpoint
            .connect_with(config, ip, PEER_DNS_NAME)?
            .await?)
    }

    /// Whether another daemon with this site's certificate answers at one of these addresses.
    pub(super) async fn finds_namesake(&self, addresses: &[String]) -> bool {
        for address in addresses {
            let found = tokio::time::timeout(DIAL_TIMEOUT, self.is_namesake(address)).await;
            if matches!(found, Ok(Ok(true))) {
                return true;
            }
        }
        false
    }

    async fn is_namesake(&self, address: &str) -> anyhow::Result<bool> {
        let connection = self.handshake(address).await?;
        if peer_site(&connection)? != self.identity.read().site {
            connection.close(code::NOT_NEEDED, b"another site was expected");
            return Ok(false);
        }
        // Whoever has our name hangs up on us. If that was ourselves, the connection is among those we refused.
        connection.closed().await;
        let proof = proof(&connection)?;
        Ok(!self.refused.lock().contains(&proof))
    }

    /// Accepts connections until the endpoint closes.
    pub(super) async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            // Strangers must show that they are where they say before they cost anything.
            if !incoming.remote_address_validated()
                && self.endpoint.open_connections() > LINKS_MAX / 2
            {
                if let Err(error) = incoming.retry() {
                    tracing::debug!(%error, "cannot ask for a retry");
                }
                continue;
            }
            let this = self.clone();
            tokio::spawn(async move {
                let from = incoming.remote_address();
                let result = async {
                    let connection = incoming.await?;
                    let site = peer_site(&connection)?;
                    this.admit(site, connection).await
                };
                match tokio::time::timeout(DIAL_TIMEOUT, result).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(%from, error = format!("{error:#}"), "peer refused")
                    }
                    Err(_) => tracing::warn!(%from, "peer did not finish its handshake"),
                }
            });
        }
    }

    async fn admit(&self, site: String, connection: Connection) -> anyhow::Result<Arc<Link>> {
        let identity = self.identity.read().clone();
        if site == identity.site {
            let mut refused = self.refused.lock();
            if refused.len() == REFUSED_MAX {
                refused.pop_front();
            }
            refused.push_back(proof(&connection)?);
            drop(refused);
            connection.close(code::NOT_ALLOWED, b"you have my name");
            bail!(
                "another daemon has our site's name {site:?}; every site needs a certificate of its own"
            );
        }
        if self.left.load(Ordering::Relaxed) {
            connection.close(code::NOT_ALLOWED, b"another daemon has my name");
            bail!("this site has left the mesh, because another daemon has its name");
        }
        if identity
            .allowed
            .as_ref()
            .is_some_and(|names| !names.contains(&site))
        {
            connection.close(code::NOT_ALLOWED, b"your site is not in my list");
            bail!("site {site} is not in [peer] allowed_sites");
        }
        let (budget, windows) = (self.budget.clone(), self.windows.clone());
        let link = Link::new(site, connection, &self.metrics, budget, windows);
        {
            let mut links = self.by_site.lock();
            links.retain(|_, link| link.is_open());
            if links.len() >= LINKS_MAX {
                link.connection.close(code::BUSY, b"too many peers");
                bail!("{LINKS_MAX} peers are connected, which is the limit");
            }
            // Two sites may dial each other at once: both connections serve, new work takes the later.
            links.insert(link.number, link.clone());
        }
        tracing::info!(peer = link.site, address = %link.connection.remote_address(), "connected");
        self.arrivals
            .send(NewLink(link.clone()))
            .await
            .context("the daemon is stopping")?;
        Ok(link)
    }

    /// Closes everything, and lets nobody in any more: another daemon has our name.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
        for link in self.all() {
            let reason = b"another daemon has my name";
            link.connection.close(code::NOT_ALLOWED, reason);
        }
    }

    /// Closes links that nobody uses, but for those that `keep` names, and reads changed certificates.
    pub(super) fn sweep(&self, keep: impl Fn(u64) -> bool) {
        self.by_site.lock().retain(|number, link| {
            link.count(&self.metrics);
            let unused = link.last_used.lock().elapsed() > UNUSED_MAX && !keep(*number);
            if unused {
                link.connection.close(code::NOT_NEEDED, b"unused");
            }
            link.is_open() && !unused
        });
        let open: HashSet<SocketAddr> = self
            .all()
            .iter()
            .map(|link| link.connection.remote_address())
            .collect();
        self.budget.retain(|at| open.contains(at));
    }

    /// Brings what the metrics show of links up to the present.
    pub fn observe(&self) {
        let links = self.all();
        for link in &links {
            link.count(&self.metrics);
        }
        let gauges = links.iter().map(|link| (link.site.as_str(), link.gauges()));
        self.metrics.links.set_links(gauges);
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.budget.limits()
    }

    /// Changes the limits of all links, at once.
    pub fn set_limits(&self, limits: Limits) {
        self.budget.set_limits(limits);
    }

    /// Reads the certificates again. What no longer may connect is cut off.
    pub(super) fn reload(&self) -> anyhow::Result<()> {
        let identity = self.files.load()?;
        self.endpoint
            .set_server_config(Some(server_config(&identity)));
        let allowed = identity.allowed.clone();
        *self.identity.write() = Arc::new(identity);
        if let Some(allowed) = allowed {
            for link in self
                .all()
                .into_iter()
                .filter(|link| !allowed.contains(&link.site))
            {
                tracing::warn!(
                    peer = link.site,
                    "no longer in [peer] allowed_sites: cut off"
                );
                link.connection
                    .close(code::NOT_ALLOWED, b"your site is not in my list any more");
            }
        }
        Ok(())
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Closes everything.
    pub(super) async fn close(&self) {
        self.endpoint.close(code::STOPPING, b"stopping");
        let _drained =
            tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

fn server_config(identity: &Identity) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(identity.server.clone());
    config.transport_config(Arc::new(transport::config()));
    config
}
