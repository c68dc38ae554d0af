//! The congestion controller of `vitrail-proto` behind quinn's traits.
//!
//! Set [`Factory`] in the `TransportConfig`; after the handshake, [`Gauge::of`] gives the handle
//! through which a connection's numbers are read and its class is changed.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn::{Connection, VarInt};
use quinn_proto::RttEstimator;
use vitrail_proto::congestion::{self as core, Class, Snapshot};

use super::window::{Arrivals, Windows};

/// Makes a controller for each new path.
#[derive(Debug)]
pub struct Factory {
    class: Class,
    /// Seed of the next controller's probe times.
    seed: AtomicU64,
}

impl Factory {
    /// Controllers start in `class`. `seed` spreads the probes of connections over time.
    pub fn new(class: Class, seed: u64) -> Self {
        Self {
            class,
            seed: AtomicU64::new(seed),
        }
    }
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        // Any odd step visits every seed; this one spreads neighbours (Weyl sequence).
        let seed = self
            .seed
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let core = core::Controller::new(Duration::ZERO, current_mtu, self.class, seed);
        let gauge = Arc::new(Gauge {
            shared: Mutex::new(Shared {
                class: self.class,
                snapshot: core.snapshot(),
                heard_at: now,
                in_flight: 0,
                probe: 0,
            }),
        });
        Box::new(Adapter {
            epoch: now,
            core,
            gauge,
        })
    }
}

/// What a connection's controller knows, refreshed with each acknowledgement, and the class that
/// it obeys. Cheap to read; shared by all who hold it.
#[derive(Debug)]
pub struct Gauge {
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    class: Class,
    snapshot: Snapshot,
    /// When something was last acknowledged, or sent while nothing was on the path.
    heard_at: Instant,
    in_flight: u64,
    /// Bytes that may be sent beyond the window, to find out whether a silent path is back.
    probe: u64,
}

/// How long a path with something on it is silent before it is probed, in smoothed round trips and
/// at least, and how often it is probed then. The transport's own probes come after 1, 2, 4, ...
/// times some round trips, so that after an outage nobody may notice for as long again that it is
/// over. One packet in this time is no load even for a path that is only congested.
const SILENT_ROUND_TRIPS: u32 = 4;
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Room for one packet of a probe, and for what quinn wants to be free besides.
const PROBE_BYTES: u64 = 2 * 1500;

/// Looks after a connection until it is closed: its windows are kept at what its path needs and `limit` allows, and its
/// path is probed while it is silent.
pub async fn look_after(
    connection: Connection,
    gauge: Option<Arc<Gauge>>,
    windows: Arc<Windows>,
    limit: impl Fn(u64) -> u64,
) {
    let (mut send, mut receive) = (windows.open(), windows.open());
    let mut arrivals = Arrivals::new(Instant::now(), connection.stats().udp_rx.bytes);
    let (mut send_window, mut receive_window) = (0, 0);
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = connection.closed() => return,
            _ = ticks.tick() => {}
        }
        let bytes = connection.stats().udp_rx.bytes;
        let held = arrivals.held(Instant::now(), bytes, connection.rtt());
        let window = limit(receive.fit(held));
        if std::mem::replace(&mut receive_window, window) != window {
            let window = u32::try_from(window).unwrap_or(u32::MAX);
            connection.set_receive_window(VarInt::from_u32(window));
        }
        let Some(gauge) = &gauge else { continue };
        let window = send.fit(gauge.snapshot().window);
        let changed = std::mem::replace(&mut send_window, window) != window;
        // To be set makes quinn look whether it may send, even if nothing changes.
        if gauge.allow_probe() || changed {
            connection.set_send_window(window);
        }
    }
}

impl Gauge {
    /// The gauge of a connection's present path; `None` if another controller drives it.
    ///
    /// A change of the peer's network makes a new path with a new gauge: ask again when the remote
    /// address has changed. Copies the controller's state, so keep the gauge rather than asking
    /// for each reading.
    pub fn of(connection: &Connection) -> Option<Arc<Self>> {
        let adapter = connection.congestion_state().into_any();
        let adapter = adapter.downcast::<Adapter>().ok()?;
        Some(adapter.gauge)
    }

    /// The numbers as of the last acknowledgement or loss.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.lock().snapshot
    }

    /// The class that the connection works for.
    pub fn class(&self) -> Class {
        self.shared.lock().class
    }

    /// Lets one more packet out if the path has been silent.
    fn allow_probe(&self) -> bool {
        let mut shared = self.shared.lock();
        let round_trip = shared.snapshot.smoothed_rtt.unwrap_or_default();
        let patience = PROBE_INTERVAL.max(round_trip * SILENT_ROUND_TRIPS);
        let silent = shared.in_flight > 0 && shared.heard_at.elapsed() > patience;
        if silent {
            let beyond = shared.in_flight.saturating_sub(shared.snapshot.window);
            shared.probe = beyond + PROBE_BYTES;
        }
        silent
    }

    /// Changes the class, from the next acknowledgement on.
    pub fn set_class(&self, class: Class) {
        self.shared.lock().class = class;
    }
}

/// One path's controller.
#[derive(Clone)]
struct Adapter {
    /// Zero of the core's time.
    epoch: Instant,
    core: core::Controller,
    gauge: Arc<Gauge>,
}

impl Adapter {
    fn time(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.epoch)
    }

    fn publish(&self) {
        self.gauge.shared.lock().snapshot = self.core.snapshot();
    }

    fn note_sent(&self, now: Instant, bytes: u64) {
        let mut shared = self.gauge.shared.lock();
        if shared.in_flight == 0 {
            shared.heard_at = now;
        }
        shared.in_flight = shared.in_flight.saturating_add(bytes);
    }

    fn note_acked(&self, now: Instant, in_flight: u64) {
        let mut shared = self.gauge.shared.lock();
        shared.heard_at = now;
        shared.in_flight = in_flight;
        shared.probe = 0;
    }
}

impl Controller for Adapter {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.core.on_sent(self.time(now), bytes);
        self.note_sent(now, bytes);
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
        let class = self.gauge.class();
        self.core.set_class(class);
        self.note_acked(now, in_flight);
        self.core
            .on_acks_ended(self.time(now), in_flight, app_limited);
        self.publish();
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        let now = self.time(now);
        match lost_bytes {
            // Nothing lost: the path marked packets instead (ECN).
            0 => self.core.on_marked(now),
            _ => self.core.on_lost(now, lost_bytes, is_persistent_congestion),
        }
        self.publish();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.core.on_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.core.window() + self.gauge.shared.lock().probe
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.core.window();
        metrics.pacing_rate = Some(self.core.snapshot().rate.saturating_mul(8));
        metrics
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
