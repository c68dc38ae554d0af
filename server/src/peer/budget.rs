//! Holding a site to its limits: all connections share one [`Budget`].
//!
//! What is sent is counted where datagrams leave ([`super::socket`]), so it includes all that QUIC
//! adds and everything that is sent twice. What is received is held back by not reading it: the
//! windows of flow control, which shrink with the limit, then stop the other side.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vitrail_proto::budget as core;
use vitrail_proto::congestion::Class;

use super::congestion::Gauge;
use crate::limits::Limits;

/// How long a waiting sender or reader sleeps at most before it looks whether limits have changed.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What IP, UDP and QUIC add to payload: 62 bytes to the 1,418 of a full packet.
const HEADERS_PER_MILLE: u64 = 44;

/// How much of a limit's rate may be under way to a reader: it evens out the pauses of many.
const UNDER_WAY: Duration = Duration::from_millis(200);

/// Bytes of a connection's window under any limit: a few frames.
const WINDOW_MIN: u64 = 256 * 1024;

/// The limits of a site, and how far they are used up.
#[derive(Debug)]
pub struct Budget {
    /// Zero of the core's time.
    epoch: Instant,
    /// Whether anything has to be counted at all.
    capped: AtomicBool,
    /// Counts changes: who waits for a turn under older limits need not wait on.
    generation: AtomicU64,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    limits: Limits,
    send: core::Budget,
    receive: core::Budget,
    /// Who is at the addresses of open connections.
    routes: HashMap<SocketAddr, Route>,
}

#[derive(Debug)]
struct Route {
    site: String,
    gauge: Option<Arc<Gauge>>,
}

/// When somebody who has taken bytes may go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    at: Instant,
    generation: u64,
}

impl Budget {
    /// A budget with these limits.
    pub fn new(limits: Limits) -> Arc<Self> {
        let budget = Self {
            epoch: Instant::now(),
            capped: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            shared: Mutex::default(),
        };
        budget.set_limits(limits);
        Arc::new(budget)
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.shared.lock().limits.clone()
    }

    /// Changes the limits, for connections that are open and all others.
    pub fn set_limits(&self, limits: Limits) {
        let now = self.now();
        let mut shared = self.shared.lock();
        let Shared { send, receive, .. } = &mut *shared;
        limits.apply(now, send, receive);
        let capped = send.is_capped() || receive.is_capped();
        shared.limits = limits;
        self.capped.store(capped, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Says who is at an address, and what tells the class of the work for it.
    pub(super) fn register(&self, at: SocketAddr, site: &str, gauge: Option<Arc<Gauge>>) {
        let site = site.to_owned();
        self.shared.lock().routes.insert(at, Route { site, gauge });
    }

    /// Forgets addresses at which nobody is any more.
    pub(super) fn retain(&self, is_open: impl Fn(&SocketAddr) -> bool) {
        self.shared.lock().routes.retain(|at, _| is_open(at));
    }

    /// Counts bytes that were sent to an address. None if nothing limits them.
    pub(super) fn sent(&self, to: SocketAddr, bytes: u64) -> Option<Turn> {
        if !self.capped.load(Ordering::Acquire) {
            return None;
        }
        let now = self.now();
        let mut shared = self.shared.lock();
        let Shared { send, routes, .. } = &mut *shared;
        let route = routes.get(&to);
        let gauge = route.and_then(|route| route.gauge.as_ref());
        let class = gauge.map_or(Class::Interactive, |gauge| gauge.class());
        let site = route.map(|route| route.site.as_str());
        let at = send.take(now, site, class, bytes);
        Some(self.turn(at))
    }

    /// Waits until payload of this length may be read. Being dropped while it waits does no harm.
    pub(super) async fn receive(&self, site: &str, class: Class, payload: u64) {
        if !self.capped.load(Ordering::Acquire) {
            return;
        }
        let bytes = payload + payload * HEADERS_PER_MILLE / 1000;
        let turn = {
            let mut shared = self.shared.lock();
            let at = shared.receive.take(self.now(), Some(site), class, bytes);
            self.turn(at)
        };
        while let Some(wait) = self.wait(&turn) {
            tokio::time::sleep(wait).await;
        }
    }

    fn turn(&self, at: Duration) -> Turn {
        Turn {
            at: self.epoch.checked_add(at).unwrap_or(self.epoch),
            generation: self.generation.load(Ordering::Acquire),
        }
    }

    /// How long to sleep before asking again; none when the turn has come.
    pub(super) fn wait(&self, turn: &Turn) -> Option<Duration> {
        if turn.generation != self.generation.load(Ordering::Acquire) {
            return None;
        }
        let left = turn.at.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.min(LOOK_INTERVAL))
    }

    /// Window of a connection with a round trip of `rtt`, in bytes, at most `most`.
    pub(super) fn window(&self, site: &str, rtt: Duration, most: u64) -> u64 {
        let Some(cap) = self.shared.lock().receive.cap_of(site) else {
            return most;
        };
        let bytes = cap.get() as f64 * (rtt + UNDER_WAY).as_secs_f64();
        (bytes as u64).clamp(WINDOW_MIN, most)
    }

    /// Most bytes that should leave at once, so that those who share a limit take turns often.
    pub(super) fn burst(&self) -> Option<u64> {
        const BURST_TIME_MS: u64 = 5;
        if !self.capped.load(Ordering::Acquire) {
            return None;
        }
        let cap = self.shared.lock().send.smallest_cap()?;
        Some(cap.get() * BURST_TIME_MS / 1000)
    }
}
