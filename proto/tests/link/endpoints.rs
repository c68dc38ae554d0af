//! Real QUIC endpoints in virtual time: a sender and a receiver of quinn-proto over the link
//! model, without sockets.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::congestion::{Controller, ControllerFactory};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionEvent, ConnectionHandle, DatagramEvent, Dir, Endpoint,
    EndpointConfig, EndpointEvent, Event, RttEstimator, ServerConfig, StreamEvent, StreamId,
    Transmit, TransportConfig,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use vitrail_proto::congestion::{self as core, Class, Snapshot};

use super::path::{HEADER, Link, Path};

/// Streams side by side, and the window of each: what the daemon uses.
const STREAMS: usize = 8;
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Datagrams per call, as quinn asks for.
const BATCH: usize = 10;

/// What the sender's controller does, seen from outside.
pub(crate) type Probe = Arc<Mutex<Option<Snapshot>>>;

struct Factory {
    class: Class,
    seed: u64,
    probe: Probe,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Adapter {
            epoch: now,
            core: core::Controller::new(Duration::ZERO, current_mtu, self.class, self.seed),
            probe: self.probe.clone(),
        })
    }
}

#[derive(Clone)]
struct Adapter {
    epoch: Instant,
    core: core::Controller,
    probe: Probe,
}

impl Adapter {
    fn time(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.epoch)
    }
}

impl Controller for Adapter {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.core.on_sent(self.time(now), bytes);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.core.on_acked(self.time(now), self.time(sent), bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.core
            .on_acks_ended(self.time(now), in_flight, app_limited);
        *self.probe.lock().unwrap() = Some(self.core.snapshot());
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.core
            .on_lost(self.time(now), lost_bytes, is_persistent_congestion);
        *self.probe.lock().unwrap() = Some(self.core.snapshot());
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.core.on_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.core.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.core.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What a transfer did.
#[derive(Debug)]
pub(crate) struct Report {
    /// Payload received, bytes, per 100 ms.
    pub(crate) received: Vec<u64>,
    /// Bytes that entered the link towards the receiver, headers included.
    pub(crate) wire_bytes: u64,
    pub(crate) lost_bytes: u64,
    pub(crate) sender: Option<Snapshot>,
    /// Round trips of the sender's controller, smoothed, every 100 ms.
    pub(crate) smoothed_rtts: Vec<(Duration, Duration)>,
    /// Both ends were still connected at the end.
    pub(crate) alive: bool,
}

impl Report {
    /// Bits of payload per second between two times.
    pub(crate) fn goodput(&self, from: Duration, to: Duration) -> f64 {
        let bin = |t: Duration| (t.as_millis() / 100) as usize;
        let bytes: u64 = self.received.iter().take(bin(to)).skip(bin(from)).sum();
        bytes as f64 * 8.0 / (to - from).as_secs_f64()
    }

    pub(crate) fn sent_twice(&self) -> f64 {
        self.lost_bytes as f64 / self.wire_bytes as f64
    }
}

/// As [`transfer`], to a receiver that reads one byte a second until `slow_until`.
pub(crate) fn transfer_to_slow(link: Link, slow_until: Duration, time: Duration) -> Report {
    let mut transfer = Transfer::new(link, Class::Interactive, 1);
    transfer.slow_until = transfer.epoch + slow_until;
    transfer.run(time)
}

/// Sends as much as fits over `link` for `time`.
pub(crate) fn transfer(link: Link, class: Class, seed: u64, time: Duration) -> Report {
    Transfer::new(link, class, seed).run(time)
}

struct Side {
    endpoint: Endpoint,
    address: SocketAddr,
    connection: Option<(ConnectionHandle, Connection)>,
}

/// `(arrival, order, towards the receiver, datagram)`.
type OnTheWay = (Instant, u64, bool, Vec<u8>);

struct Transfer {
    epoch: Instant,
    now: Instant,
    sender: Side,
    receiver: Side,
    there: Path,
    back: Path,
    on_the_way: BinaryHeap<Reverse<OnTheWay>>,
    order: u64,
    outgoing: Vec<StreamId>,
    incoming: Vec<StreamId>,
    /// Until then the receiver reads a byte a second; the next is due at `read_at`.
    slow_until: Instant,
    read_at: Instant,
    probe: Probe,
    report: Report,
}

impl Transfer {
    fn new(link: Link, class: Class, seed: u64) -> Self {
        let now = Instant::now();
        let probe = Probe::default();
        let (client, server) = configurations(Factory {
            class,
            seed,
            probe: probe.clone(),
        });
        let mut config = EndpointConfig::default();
        config.rng_seed(Some([seed as u8; 32]));
        let config = Arc::new(config);
        let address = |port| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
        let mut sender = Side {
            endpoint: Endpoint::new(config.clone(), None, false, None),
            address: address(1),
            connection: None,
        };
        let receiver = Side {
            endpoint: Endpoint::new(config, Some(Arc::new(server)), false, None),
            address: address(2),
            connection: None,
        };
        let connection = sender
            .endpoint
            .connect(now, client, receiver.address, "receiver")
            .unwrap();
        sender.connection = Some(connection);
        Self {
            epoch: now,
            now,
            sender,
            receiver,
            there: Path::new(link.clone(), seed),
            back: Path::new(link.back(), seed),
            on_the_way: BinaryHeap::new(),
            order: 0,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            slow_until: now,
            read_at: now,
            probe,
            report: Report {
                received: Vec::new(),
                wire_bytes: 0,
                lost_bytes: 0,
                sender: None,
                smoothed_rtts: Vec::new(),
                alive: false,
            },
        }
    }

    fn run(mut self, time: Duration) -> Report {
        let end = self.epoch + time;
        while self.now < end {
            self.send();
            self.receive();
            self.transmit();
            let Some(next) = self.next_event() else { break };
            self.now = next.max(self.now);
            self.deliver();
            for side in [&mut self.sender, &mut self.receiver] {
                if let Some((_, connection)) = &mut side.connection
                    && connection.poll_timeout().is_some_and(|at| at <= self.now)
                {
                    connection.handle_timeout(self.now);
                }
            }
            self.observe();
        }
        let connected = |side: &Side| side.connection.as_ref().is_some_and(|c| !c.1.is_closed());
        self.report.alive = connected(&self.sender) && connected(&self.receiver);
        if let Some((_, connection)) = &self.sender.connection {
            self.report.lost_bytes = connection.stats().path.lost_bytes;
        }
        self.report.sender = *self.probe.lock().unwrap();
        self.report
    }

    fn observe(&mut self) {
        let now = self.now - self.epoch;
        let due = self
            .report
            .smoothed_rtts
            .last()
            .is_none_or(|r| now >= r.0 + Duration::from_millis(100));
        let snapshot = *self.probe.lock().unwrap();
        if due && let Some(rtt) = snapshot.and_then(|s| s.smoothed_rtt) {
            self.report.smoothed_rtts.push((now, rtt));
        }
    }

    fn next_event(&mut self) -> Option<Instant> {
        let arrival = self.on_the_way.peek().map(|Reverse(d)| d.0);
        let read = (self.now < self.slow_until).then_some(self.read_at);
        let timeout = |side: &mut Side| side.connection.as_mut().and_then(|c| c.1.poll_timeout());
        [
            arrival,
            read,
            timeout(&mut self.sender),
            timeout(&mut self.receiver),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The sender's application: keeps every stream full.
    fn send(&mut self) {
        let Some((_, connection)) = &mut self.sender.connection else {
            return;
        };
        while let Some(event) = connection.poll() {
            if let Event::Connected = event {
                for _ in 0..STREAMS {
                    self.outgoing.extend(connection.streams().open(Dir::Uni));
                }
            }
        }
        let data = [7; 64 << 10];
        for &id in &self.outgoing {
            while connection.send_stream(id).write(&data).is_ok() {}
        }
    }

    /// The receiver's application: reads whatever there is, once it does not dawdle any more.
    fn receive(&mut self) {
        let is_slow = self.now < self.slow_until;
        let is_due = self.now >= self.read_at;
        if is_due {
            self.read_at = self.now + Duration::from_secs(1);
        }
        let Some((_, connection)) = &mut self.receiver.connection else {
            return;
        };
        while let Some(event) = connection.poll() {
            if let Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) = event {
                while let Some(id) = connection.streams().accept(Dir::Uni) {
                    self.incoming.push(id);
                }
            }
        }
        if is_slow && !is_due {
            return;
        }
        let len_max = if is_slow { 1 } else { usize::MAX };
        let bin = ((self.now - self.epoch).as_millis() / 100) as usize;
        self.report.received.resize(bin + 1, 0);
        for &id in &self.incoming {
            let mut stream = connection.recv_stream(id);
            let mut chunks = stream.read(true).unwrap();
            while let Ok(Some(chunk)) = chunks.next(len_max) {
                self.report.received[bin] += chunk.bytes.len() as u64;
                if is_slow {
                    return;
                }
            }
        }
    }

    fn transmit(&mut self) {
        for towards_receiver in [true, false] {
            let side = if towards_receiver {
                &mut self.sender
            } else {
                &mut self.receiver
            };
            let mut datagrams = Vec::new();
            poll_transmits(side, self.now, &mut datagrams);
            for datagram in datagrams {
                self.put(towards_receiver, datagram);
            }
        }
    }

    fn put(&mut self, towards_receiver: bool, datagram: Vec<u8>) {
        let size = datagram.len() as u64;
        let now = self.now - self.epoch;
        let path = if towards_receiver {
            self.report.wire_bytes += size + HEADER;
            &mut self.there
        } else {
            &mut self.back
        };
        if let Some(arrival) = path.send(now, size) {
            self.order += 1;
            let at = self.epoch + arrival;
            self.on_the_way
                .push(Reverse((at, self.order, towards_receiver, datagram)));
        }
    }

    fn deliver(&mut self) {
        while let Some(Reverse((at, ..))) = self.on_the_way.peek()
            && *at <= self.now
            && let Some(Reverse((_, _, towards_receiver, datagram))) = self.on_the_way.pop()
        {
            let (side, remote) = if towards_receiver {
                (&mut self.receiver, self.sender.address)
            } else {
                (&mut self.sender, self.receiver.address)
            };
            let mut answer = Vec::new();
            let data = BytesMut::from(&datagram[..]);
            let event = side
                .endpoint
                .handle(self.now, remote, None, None, data, &mut answer);
            match event {
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let accepted = side.endpoint.accept(incoming, self.now, &mut answer, None);
                    side.connection = accepted.ok();
                }
                Some(DatagramEvent::ConnectionEvent(_, event)) => side.handle_event(event),
                Some(DatagramEvent::Response(_)) | None => {}
            }
        }
    }
}

impl Side {
    fn handle_event(&mut self, event: ConnectionEvent) {
        let Some((handle, connection)) = &mut self.connection else {
            return;
        };
        connection.handle_event(event);
        let mut events: Vec<EndpointEvent> = Vec::new();
        while let Some(event) = connection.poll_endpoint_events() {
            events.push(event);
        }
        for event in events {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
    }
}

fn poll_transmits(side: &mut Side, now: Instant, datagrams: &mut Vec<Vec<u8>>) {
    let Some((_, connection)) = &mut side.connection else {
        return;
    };
    let mut buffer = Vec::new();
    while let Some(Transmit {
        size, segment_size, ..
    }) = connection.poll_transmit(now, BATCH, &mut buffer)
    {
        let segments = buffer[..size].chunks(segment_size.unwrap_or(size));
        datagrams.extend(segments.map(<[u8]>::to_vec));
        buffer.clear();
    }
}

fn configurations(factory: Factory) -> (ClientConfig, ServerConfig) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["receiver".into()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let certificate: CertificateDer<'static> = certificate.into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls13 = &[&rustls::version::TLS13];

    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(tls13)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let mut server =
        ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap()));
    server.transport_config(Arc::new(transport()));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(tls13)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()));
    let mut sending = transport();
    sending.congestion_controller_factory(Arc::new(factory));
    client.transport_config(Arc::new(sending));
    (client, server)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(u64::from(CONNECTION_WINDOW));
    transport
}
