//! Traffic that measures a running network from outside, with sockets at its sites.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::emulator::{Emulator, Error};
use super::network::SiteId;
use super::sys;
use super::topology::{LinkSpec, Topology};
use super::units::Rate;

/// IPv4 and UDP headers: what the network carries on top of a datagram's payload.
const UDP_HEADERS: usize = 28;

/// Payload of an echo: when it was sent, as nanoseconds of the prober's clock.
const ECHO_LEN: usize = 16;

/// IP packet length of an echo.
pub(super) const ECHO_PACKET: usize = ECHO_LEN + UDP_HEADERS;

/// Echoes are sent to all other sites at once, this often.
const ECHO_INTERVAL: Duration = Duration::from_millis(40);

/// Senders catch up with their rate this often.
const PACE: Duration = Duration::from_millis(1);

/// How long a socket waits for a datagram before it looks whether it is time to end.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(20);

/// Socket receive buffer, so that a probe thread may miss a few scheduler rounds.
const RECEIVE_BUFFER: usize = 4 << 20;

fn io_error(what: &str) -> impl Fn(io::Error) -> Error {
    let what = what.to_owned();
    move |source| Error::Io {
        what: what.clone(),
        source,
    }
}

fn bind(emulator: &Emulator, site: SiteId) -> Result<UdpSocket, Error> {
    emulator
        .run_in(site, || {
            let socket = UdpSocket::bind((site.addr(), 0))?;
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
            socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
            Ok(socket)
        })?
        .map_err(io_error("bind a probe's socket"))
}

/// The network is to be measured, not how busy the machine is: probes get the processor when they
/// want it. Without the right to that they are merely less exact.
fn prioritise() {
    sys::make_realtime().ok();
}

/// What the thread returned; its panic goes on here.
pub(super) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether a receive just found nothing.
fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Measures the round-trip time from each site to each other one, `count` times each; the median
/// by sender and receiver, `None` where no answer came.
pub(super) fn round_trips(
    emulator: &Emulator,
    count: u32,
) -> Result<Vec<Vec<Option<Duration>>>, Error> {
    let sites: Vec<_> = emulator.network().site_ids().collect();
    let sockets = |_| {
        sites
            .iter()
            .map(|&site| bind(emulator, site))
            .collect::<Result<Vec<_>, _>>()
    };
    let (echoes, probers) = (sockets(())?, sockets(())?);
    let targets = echoes
        .iter()
        .map(UdpSocket::local_addr)
        .collect::<Result<Vec<_>, _>>()
        .map_err(io_error("ask a probe's address"))?;
    let longest = emulator
        .network()
        .pairs()
        .map(|(a, b)| emulator.network().rtt(a, b))
        .max();
    let patience = longest.unwrap_or_default() + Duration::from_millis(200);

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for socket in &echoes {
            scope.spawn(|| echo(socket, &done));
        }
        let probes: Vec<_> = probers
            .iter()
            .enumerate()
            .map(|(own, socket)| {
                let targets = &targets;
                scope.spawn(move || probe(socket, own, targets, count, patience))
            })
            .collect();
        let results = probes
            .into_iter()
            .map(|probe| {
                probe
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        results
    })
}

/// Sends back whatever comes.
fn echo(socket: &UdpSocket, done: &AtomicBool) {
    prioritise();
    let mut buffer = [0; ECHO_LEN];
    while !done.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            // An echo that cannot be sent is an echo that is lost.
            socket.send_to(&buffer[..len], from).ok();
        }
    }
}

fn probe(
    socket: &UdpSocket,
    own: usize,
    targets: &[SocketAddr],
    count: u32,
    patience: Duration,
) -> Result<Vec<Option<Duration>>, Error> {
    prioritise();
    let start = Instant::now();
    let end = ECHO_INTERVAL * count + patience;
    let mut samples = vec![Vec::new(); targets.len()];
    let mut sent = 0;
    while start.elapsed() < end {
        if sent < count && start.elapsed() >= ECHO_INTERVAL * sent {
            sent += 1;
            for (index, target) in targets
                .iter()
                .enumerate()
                .filter(|&(index, _)| index != own)
            {
                let mut payload = [0; ECHO_LEN];
                payload[..8].copy_from_slice(&(index as u64).to_be_bytes());
                let now = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                payload[8..].copy_from_slice(&now.to_be_bytes());
                socket
                    .send_to(&payload, target)
                    .map_err(io_error("send an echo"))?;
            }
        }
        let mut payload = [0; ECHO_LEN];
        match socket.recv(&mut payload) {
            Ok(ECHO_LEN) => {
                let now = start.elapsed();
                let (index, sent_at) = payload.split_at(8);
                let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
                let sent_at = Duration::from_nanos(number(sent_at));
                if let Some(samples) = samples.get_mut(number(index) as usize) {
                    samples.push(now.saturating_sub(sent_at));
                }
            }
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(io_error("receive an echo")(error)),
        }
    }
    Ok(samples.into_iter().map(median).collect())
}

fn median(mut samples: Vec<Duration>) -> Option<Duration> {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied()
}

/// Datagrams from one site to another at a constant rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// The sender.
    pub from: SiteId,
    /// The receiver.
    pub to: SiteId,
    /// What is sent, headers included.
    pub rate: Rate,
    /// IP packet length.
    pub packet_len: usize,
}

/// What came of a [`Flow`].
#[derive(Clone, Debug)]
pub(super) struct Received {
    /// Datagrams that were sent.
    pub(super) sent: u64,
    /// When each datagram came, since the start of the flows.
    pub(super) arrivals: Vec<Duration>,
}

/// Runs all `flows` at once for `duration`, and waits for the last packet to come; the network
/// must have drained `patience` after the end.
pub(super) fn run_flows(
    emulator: &Emulator,
    flows: &[Flow],
    duration: Duration,
    patience: Duration,
) -> Result<Vec<Received>, Error> {
    let mut ends = Vec::with_capacity(flows.len());
    for flow in flows {
        let (sender, receiver) = (bind(emulator, flow.from)?, bind(emulator, flow.to)?);
        let addr = receiver
            .local_addr()
            .map_err(io_error("ask a probe's address"))?;
        sender.connect(addr).map_err(io_error("connect a probe"))?;
        ends.push((sender, receiver));
    }
    let start = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = flows
            .iter()
            .zip(&ends)
            .map(|(flow, (sender, receiver))| {
                let send = scope.spawn(move || send_flow(sender, flow, start, duration));
                let receive =
                    scope.spawn(move || receive_flow(receiver, start, duration + patience));
                (send, receive)
            })
            .collect();
        threads
            .into_iter()
            .map(|(send, receive)| {
                let sent = join(send)?;
                let arrivals = join(receive)?;
                Ok(Received { sent, arrivals })
            })
            .collect()
    })
}

fn send_flow(
    socket: &UdpSocket,
    flow: &Flow,
    start: Instant,
    duration: Duration,
) -> Result<u64, Error> {
    prioritise();
    let payload = vec![0; flow.packet_len - UDP_HEADERS];
    let mut sent = 0;
    while start.elapsed() < duration {
        let allowed = flow.rate.bytes_in(start.elapsed()) / flow.packet_len as u64 + 1;
        while sent < allowed {
            socket.send(&payload).map_err(io_error("send a probe"))?;
            sent += 1;
        }
        thread::sleep(PACE);
    }
    Ok(sent)
}

fn receive_flow(
    socket: &UdpSocket,
    start: Instant,
    until: Duration,
) -> Result<Vec<Duration>, Error> {
    prioritise();
    let mut buffer = [0; 2048];
    let mut arrivals = Vec::new();
    while start.elapsed() < until {
        match socket.recv(&mut buffer) {
            Ok(_) => arrivals.push(start.elapsed()),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(io_error("receive a probe")(error)),
        }
    }
    Ok(arrivals)
}

/// What the emulator moves when nothing limits it: IP bytes of one TCP connection between two
/// sites, acknowledgements included, over `duration`.
pub(super) fn ceiling(duration: Duration) -> Result<Rate, Error> {
    let emulator = Emulator::start(&Topology::uniform(2, LinkSpec::default()))?;
    let (client, server) = (SiteId(0), SiteId(1));
    let listener = emulator
        .run_in(server, || TcpListener::bind((server.addr(), 0)))?
        .map_err(io_error("listen for the ceiling probe"))?;
    let addr = listener
        .local_addr()
        .map_err(io_error("ask a probe's address"))?;
    let mut stream = emulator
        .run_in(client, || TcpStream::connect(addr))?
        .map_err(io_error("connect the ceiling probe"))?;
    let (mut sink, _) = listener
        .accept()
        .map_err(io_error("accept the ceiling probe"))?;

    thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = vec![0; 1 << 18];
            // The sender's end is the end, however it comes.
            while sink.read(&mut buffer).is_ok_and(|len| len > 0) {}
        });
        let block = vec![0; 1 << 18];
        let start = Instant::now();
        // The first half lets the windows open.
        let mut half = None;
        while start.elapsed() < duration {
            stream
                .write_all(&block)
                .map_err(io_error("send the ceiling probe"))?;
            if half.is_none() && start.elapsed() >= duration / 2 {
                half = Some(emulator.counters()?);
            }
        }
        let end = emulator.counters()?;
        drop(stream);
        let half = half.ok_or(Error::Stopped)?;
        let bytes = |counters: &super::Counters| {
            counters
                .sites
                .iter()
                .map(|site| site.count.rx.bytes)
                .sum::<u64>()
        };
        let moved = bytes(&end) - bytes(&half);
        let rate = moved as f64 * 8.0 / (end.at - half.at).as_secs_f64();
        Rate::bits_per_sec(rate as u64).ok_or(Error::Stopped)
    })
}
