//! The UDP socket of all connections, which holds them to the site's limits.
//!
//! quinn builds some datagrams for a connection, asks that connection's [`UdpPoller`] whether they
//! may leave, and then sends them. Here, what is sent is charged to the budget, and the poller of the
//! connection that sent it says "not yet" until its next turn has come. Nothing is dropped or copied,
//! and a connection that waits goes on receiving.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::time::Sleep;

use super::budget::{Budget, Turn};

/// Asked of the kernel for each direction; it gives what its limits allow.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// IP and UDP headers of a datagram.
const HEADERS_V4: usize = 28;
const HEADERS_V6: usize = 48;

/// A full datagram, for estimates.
const DATAGRAM: u64 = 1500;

/// Where the poller of a connection finds when it may send again.
type Slot = Arc<Mutex<Option<Turn>>>;

thread_local! {
    /// The connection whose poller said last on this thread that it may send. quinn sends right after
    /// that, and gives the socket no other way to know for whom.
    static SENDER: Cell<Option<Slot>> = const { Cell::new(None) };
}

/// A UDP socket under a budget.
#[derive(Debug)]
pub struct PacedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    budget: Arc<Budget>,
}

impl PacedSocket {
    /// Binds a socket. Needs a Tokio runtime.
    pub fn bind(listen: SocketAddr, budget: Arc<Budget>) -> io::Result<Arc<Self>> {
        Self::new(bind(listen)?, budget)
    }

    /// Wraps a bound socket that does not block. Needs a Tokio runtime.
    pub fn new(socket: UdpSocket, budget: Arc<Budget>) -> io::Result<Arc<Self>> {
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        Ok(Arc::new(Self { inner, budget }))
    }
}

/// A UDP socket with large buffers that does not block.
pub fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
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

impl AsyncUdpSocket for PacedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            inner: self.inner.clone().create_io_poller(),
            budget: self.budget.clone(),
            slot: Slot::default(),
            sleep: Mutex::new(None),
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sender = SENDER.take();
        self.inner.try_send(transmit)?;
        let turn = self.budget.sent(transmit.destination, wire_bytes(transmit));
        if let Some(slot) = sender {
            *slot.lock() = turn;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        let most = self.inner.max_transmit_segments();
        match self.budget.burst() {
            Some(bytes) => most.min((bytes / DATAGRAM).max(1) as usize),
            None => most,
        }
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Bytes of the IP packets that a transmit becomes.
fn wire_bytes(transmit: &Transmit<'_>) -> u64 {
    let len = transmit.contents.len();
    let datagrams = match transmit.segment_size {
        Some(size) if size > 0 => len.div_ceil(size),
        _ => 1,
    };
    let headers = match transmit.destination {
        SocketAddr::V4(_) => HEADERS_V4,
        SocketAddr::V6(_) => HEADERS_V6,
    };
    (len + datagrams * headers) as u64
}

/// Tells one connection when it may send.
struct Poller {
    inner: Pin<Box<dyn UdpPoller>>,
    budget: Arc<Budget>,
    slot: Slot,
    /// Only ever used by the connection's own task; the mutex is for the trait's `Sync`.
    sleep: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("slot", &self.slot).finish()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let turn = *this.slot.lock();
        let sleep = this.sleep.get_mut();
        if let Some(turn) = turn {
            while let Some(wait) = this.budget.wait(&turn) {
                let until = tokio::time::Instant::now() + wait;
                let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                sleep.as_mut().reset(until);
                ready!(sleep.as_mut().poll(cx));
            }
        }
        ready!(this.inner.as_mut().poll_writable(cx))?;
        SENDER.set(Some(this.slot.clone()));
        Poll::Ready(Ok(()))
    }
}
