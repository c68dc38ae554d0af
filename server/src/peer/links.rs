//! Connections to other sites: dialled on demand, kept while they are used, one for each pair of sites.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use parking_lot::{Mutex, RwLock};
use prometheus::IntCounter;
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::sync::mpsc;
use vitrail_proto::clock::site_number;
use vitrail_proto::congestion::Class;
use vitrail_proto::wire::PEER_DNS_NAME;

use super::congestion::{Factory, Gauge};
use super::identity::{Files, Identity, peer_site};
use crate::metrics::Metrics;

/// Window of one stream. Beyond 4 MiB a burst of loss can leave more pieces than quinn buffers (it then
/// closes the connection); more bandwidth comes from more streams.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// Window of a connection, each way: 100 Mbit/s at 1.3 s, or 1 Gbit/s at 130 ms.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Streams that a peer may have open at once.
const STREAMS_MAX: u32 = 64;
/// A peer that says nothing for so long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Below the idle timeout by enough to lose two of them.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Links that nobody has used for so long are closed.
const UNUSED_MAX: Duration = Duration::from_secs(120);
/// Links at once.
const LINKS_MAX: usize = 256;
/// Asked of the kernel for each direction; it gives what its limits allow.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

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
    /// Payload received from and sent to the site, after encoding, over all links since the start.
    pub(super) rx_bytes: IntCounter,
    pub(super) tx_bytes: IntCounter,
    last_used: Mutex<Instant>,
}

impl Link {
    fn new(site: String, connection: Connection, metrics: &Metrics) -> Arc<Self> {
        let (rx_bytes, tx_bytes) = metrics.peer_bytes(&site);
        Arc::new(Self {
            number: site_number(&site),
            site,
            gauge: Gauge::of(&connection),
            connection,
            rx_bytes,
            tx_bytes,
            last_used: Mutex::new(Instant::now()),
        })
    }

    /// Round trip, smoothed.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// What the congestion controller knows of the path.
    pub fn path(&self) -> Option<vitrail_proto::congestion::Snapshot> {
        self.gauge.as_ref().map(|gauge| gauge.snapshot())
    }

    /// Notes that somebody uses the link.
    pub(super) fn touch(&self) {
        *self.last_used.lock() = Instant::now();
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }
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
    arrivals: mpsc::Sender<NewLink>,
    metrics: Arc<Metrics>,
}

impl Links {
    /// Opens the socket. New connections go to `arrivals`.
    pub(super) fn open(
        listen: SocketAddr,
        files: Files,
        site: &str,
        arrivals: mpsc::Sender<NewLink>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Arc<Self>> {
        let identity = files.load()?;
        if identity.site != site {
            bail!(
                "[site] name is {site:?} but the certificate is for {:?}; they must be the same",
                identity.site
            );
        }
        let socket = socket(listen).with_context(|| {
            format!("cannot listen on UDP {listen}; choose another [peer] listen")
        })?;
        let config = server_config(&identity);
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
        Ok(Arc::new(Self {
            endpoint,
            identity: RwLock::new(Arc::new(identity)),
            files,
            by_site: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
            arrivals,
            metrics,
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
        let ip = tokio::net::lookup_host(address)
            .await?
            .next()
            .context("the name has no address")?;
        let identity = self.identity.read().clone();
        let mut config = quinn::ClientConfig::new(identity.client.clone());
        config.transport_config(transport());
        let connection = self
            .endpoint
            .connect_with(config, ip, PEER_DNS_NAME)?
            .await?;
        let found = peer_site(&connection)?;
        if site.is_some_and(|site| site != found) {
            connection.close(code::NOT_ALLOWED, b"another site was expected");
            bail!("site {found} answers there");
        }
        self.admit(found, connection).await
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
            connection.close(code::NOT_ALLOWED, b"you have my name");
            bail!(
                "another daemon has our site's name {site:?}; every site needs a certificate of its own"
            );
        }
        if identity
            .allowed
            .as_ref()
            .is_some_and(|names| !names.contains(&site))
        {
            connection.close(code::NOT_ALLOWED, b"your site is not in my list");
            bail!("site {site} is not in [peer] allowed_sites");
        }
        let link = Link::new(site, connection, &self.metrics);
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

    /// Closes links that nobody uses, but for those that `keep` names, and reads changed certificates.
    pub(super) fn sweep(&self, keep: impl Fn(u64) -> bool) {
        self.by_site.lock().retain(|number, link| {
            let unused = link.last_used.lock().elapsed() > UNUSED_MAX && !keep(*number);
            if unused {
                link.connection.close(code::NOT_NEEDED, b"unused");
            }
            link.is_open() && !unused
        });
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

fn socket(listen: SocketAddr) -> std::io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(listen),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // The kernel cuts these silently to its own limits.
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

fn server_config(identity: &Identity) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(identity.server.clone());
    config.transport_config(transport());
    config
}

fn transport() -> Arc<TransportConfig> {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(
            VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32).into(),
        ))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(Factory::new(
            Class::Interactive,
            SEED.fetch_add(1, Ordering::Relaxed),
        )));
    Arc::new(config)
}
