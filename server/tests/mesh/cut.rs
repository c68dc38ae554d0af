//! A network between sites that can be cut, and slowed down.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::runtime::Runtime;

/// Longest UDP payload.
const DATAGRAM_LEN_MAX: usize = 65_536;

/// The network. All its relays are cut and healed together.
pub(crate) struct Network {
    cut: Arc<AtomicBool>,
    /// Bytes per second to each site, and from it.
    rate: f64,
    runtime: Runtime,
}

impl Network {
    pub(crate) fn new(rate: f64) -> Self {
        Self {
            cut: Arc::default(),
            rate,
            runtime: Runtime::new().unwrap(),
        }
    }

    /// An address that leads to `site` as long as the network is whole.
    pub(crate) fn relay(&self, site: SocketAddr) -> SocketAddr {
        let socket = self.runtime.block_on(bind());
        let address = socket.local_addr().unwrap();
        let (cut, rate) = (self.cut.clone(), self.rate);
        self.runtime.spawn(relay(socket, site, cut, rate));
        address
    }

    /// From now on nothing goes through.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    pub(crate) fn heal(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

async fn bind() -> Arc<UdpSocket> {
    Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap())
}

/// Each peer that speaks to the site gets a socket of its own, from which the site answers.
async fn relay(socket: Arc<UdpSocket>, site: SocketAddr, cut: Arc<AtomicBool>, rate: f64) {
    let mut peers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        let to_site = match peers.get(&from) {
            Some(known) => known.clone(),
            None => {
                let to_site = bind().await;
                peers.insert(from, to_site.clone());
                tokio::spawn(relay_back(
                    to_site.clone(),
                    socket.clone(),
                    from,
                    cut.clone(),
                    rate,
                ));
                to_site
            }
        };
        forward(&to_site, &buffer[..len], site, &cut, rate).await;
    }
}

/// What the site answers to one peer.
async fn relay_back(
    to_site: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    cut: Arc<AtomicBool>,
    rate: f64,
) {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    while let Ok((len, _)) = to_site.recv_from(&mut buffer).await {
        forward(&socket, &buffer[..len], to, &cut, rate).await;
    }
}

async fn forward(socket: &UdpSocket, bytes: &[u8], to: SocketAddr, cut: &AtomicBool, rate: f64) {
    if cut.load(Ordering::SeqCst) {
        return;
    }
    // A full buffer loses datagrams, as networks do.
    let _lost = socket.try_send_to(bytes, to);
    tokio::time::sleep(Duration::from_secs_f64(bytes.len() as f64 / rate)).await;
}
