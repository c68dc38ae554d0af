//! An emulated network with endpoints of the daemon's transport at its sites.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, TokioRuntime};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::runtime::Runtime;
use vitrail_proto::wire::PEER_DNS_NAME;
use vitraild::limits::Limits;
use vitraild::peer::budget::Budget;
use vitraild::peer::congestion::{Gauge, look_after};
use vitraild::peer::socket::{self, PacedSocket};
use vitraild::peer::transport;
use vitraild::peer::window::Windows;

use crate::wan::{Counters, Emulator, Topology};

/// Flows of one run.
const FLOWS_MAX: usize = 64;

/// Memory for windows: as much as 1 GiB for a store leaves.
const WINDOWS: u64 = 512 << 20;

/// Bytes that a receiver takes at once.
const READ_LEN: usize = 256 * 1024;

/// What endpoints have in common: a runtime, a certificate, and a count of what came of each flow.
pub(super) struct Lab {
    pub(super) runtime: Runtime,
    pub(super) epoch: Instant,
    pub(super) windows: Arc<Windows>,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    received: Arc<[AtomicU64; FLOWS_MAX]>,
    flows: AtomicUsize,
}

/// A [`Lab`] on an emulated network.
pub(super) struct WideLab {
    // Before the network: what sends should end first.
    pub(super) lab: Lab,
    pub(super) emulator: Emulator,
}

/// An endpoint at a site.
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    pub(super) address: SocketAddr,
    pub(super) budget: Arc<Budget>,
}

/// A flow's number, and the payload of it that the receiver has read.
#[derive(Clone)]
pub(super) struct Received {
    counts: Arc<[AtomicU64; FLOWS_MAX]>,
    pub(super) flow: usize,
}

impl Received {
    pub(super) fn bytes(&self) -> u64 {
        self.counts[self.flow].load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.counts[self.flow].fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Lab {
    pub(super) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let key = rcgen::KeyPair::generate()?;
        let certificate =
            rcgen::CertificateParams::new(vec![PEER_DNS_NAME.to_owned()])?.self_signed(&key)?;
        Ok(Self {
            runtime,
            epoch: Instant::now(),
            windows: Windows::new(WINDOWS),
            certificate: certificate.into(),
            key: key.serialize_der(),
            received: Arc::new([const { AtomicU64::new(0) }; FLOWS_MAX]),
            flows: AtomicUsize::new(0),
        })
    }

    /// The next flow.
    pub(super) fn flow(&self) -> Result<Received> {
        let flow = self.flows.fetch_add(1, Ordering::Relaxed);
        ensure!(flow < FLOWS_MAX, "more than {FLOWS_MAX} flows in one run");
        Ok(Received {
            counts: self.received.clone(),
            flow,
        })
    }

    /// An endpoint on a bound socket, which takes whatever is sent to it.
    pub(super) fn host(&self, socket: UdpSocket) -> Result<Host> {
        let _entered = self.runtime.enter();
        let address = socket.local_addr()?;
        let budget = Budget::new(Limits::default());
        let socket = PacedSocket::new(socket, budget.clone())?;
        let endpoint = Endpoint::new_with_abstract_socket(
            EndpointConfig::default(),
            Some(self.server_config()?),
            socket,
            Arc::new(TokioRuntime),
        )?;
        let (received, windows) = (self.received.clone(), self.windows.clone());
        let accepting = endpoint.clone();
        self.runtime.spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let (received, windows) = (received.clone(), windows.clone());
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        let gauge = Gauge::of(&connection);
                        let attending = look_after(connection.clone(), gauge, windows, |most| most);
                        tokio::spawn(attending);
                        take_streams(connection, received).await;
                    }
                });
            }
        });
        Ok(Host {
            endpoint,
            address,
            budget,
        })
    }

    fn server_config(&self) -> Result<quinn::ServerConfig> {
        let key = PrivatePkcs8KeyDer::from(self.key.clone());
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key.into())?;
        let quic = QuicServerConfig::try_from(tls)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(quic));
        config.transport_config(Arc::new(transport::config()));
        Ok(config)
    }

    /// A client's configuration that trusts the lab's endpoints.
    pub(super) fn client_config(&self) -> Result<quinn::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(quinn::ClientConfig::new(Arc::new(
            QuicClientConfig::try_from(tls)?,
        )))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

async fn take_streams(connection: Connection, received: Arc<[AtomicU64; FLOWS_MAX]>) {
    while let Ok((_send, recv)) = connection.accept_bi().await {
        tokio::spawn(take_stream(recv, received.clone()));
    }
}

/// Counts what comes on a stream. Its first byte is the flow's number.
async fn take_stream(mut recv: RecvStream, received: Arc<[AtomicU64; FLOWS_MAX]>) {
    let mut flow = [0];
    if recv.read_exact(&mut flow).await.is_err() {
        return;
    }
    let Some(count) = received.get(usize::from(flow[0])) else {
        return;
    };
    while let Ok(Some(chunk)) = recv.read_chunk(READ_LEN, true).await {
        count.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
    }
}

impl WideLab {
    pub(super) fn start(topology: &Topology) -> Result<Self> {
        Ok(Self {
            lab: Lab::new()?,
            emulator: Emulator::start(topology)?,
        })
    }

    /// An endpoint at a site.
    pub(super) fn host(&self, site: &str) -> Result<Host> {
        let id = self.emulator.network().site(site)?;
        let address = SocketAddr::new(IpAddr::V4(id.addr()), 0);
        let socket = self.emulator.run_in(id, || socket::bind(address))?;
        self.lab
            .host(socket.with_context(|| format!("bind at {site}"))?)
    }

    /// Time since the lab was made.
    pub(super) fn now(&self) -> Duration {
        self.lab.epoch.elapsed()
    }

    /// What was carried; fails when the emulator could not keep up.
    pub(super) fn counters(&self) -> Result<Counters> {
        let counters = self.emulator.counters()?;
        let (overflow, refused) = (counters.overflow.packets, counters.refused.packets);
        ensure!(
            overflow == 0 && refused == 0,
            "the emulator could not keep up ({overflow} packets over, {refused} refused)"
        );
        Ok(counters)
    }
}

/// An endpoint on loopback.
pub(super) fn loopback_host(lab: &Lab) -> Result<Host> {
    lab.host(socket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?)
}
