//! Company on the path: is another flow keeping a queue there, and what window is then fair.
//!
//! A flow that keeps its window at what the path holds without a queue is starved by one that
//! fills the queue. So, while somebody else keeps a queue, the window follows the law of TCP
//! CUBIC (RFC 9438), which is by construction a fair rival of the flows that fill queues.

use std::time::Duration;

/// CUBIC's scaling constant, packets per cubic second (RFC 9438, 5.1).
const CUBIC_C: f64 = 0.4;

/// CUBIC's multiplicative decrease (RFC 9438, 4.6).
const CUBIC_BETA: f64 = 0.7;

/// A round trip this much above the smallest one, with our own queue let out, is a rival's queue.
const ARRIVED: f64 = 1.3;

/// Below this the rival's queue is gone.
const LEFT: f64 = 1.1;

/// Rounds with our queue let out, in a row, that must show a rival's queue.
const ARRIVED_ROUNDS: u32 = 2;

/// A queue shorter than this is not told from timer and acknowledgement delays.
const QUEUE_MIN: Duration = Duration::from_millis(2);

/// Decides whether there is company, and holds the fair window while there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Rival {
    seen: u32,
    cubic: Option<Cubic>,
}

impl Rival {
    pub(super) fn is_present(&self) -> bool {
        self.cubic.is_some()
    }

    /// Bytes that a fair rival would have on the path now.
    pub(super) fn window(&self, now: Duration, mtu: u64) -> Option<u64> {
        self.cubic.as_ref().map(|cubic| cubic.window(now, mtu))
    }

    /// Judges a round that began with our own queue let out. `window` is what the flow had on the
    /// path before that: the fair window starts there.
    pub(super) fn on_drained(
        &mut self,
        now: Duration,
        rtt: Duration,
        min_rtt: Duration,
        window: u64,
    ) {
        if self.cubic.is_some() {
            if rtt < min_rtt.mul_f64(LEFT) + QUEUE_MIN {
                *self = Self::default();
            }
        } else if rtt > min_rtt.mul_f64(ARRIVED) + QUEUE_MIN {
            self.seen += 1;
            if self.seen >= ARRIVED_ROUNDS {
                self.cubic = Some(Cubic::new(now, window));
            }
        } else {
            self.seen = 0;
        }
    }

    /// The queue overflowed.
    pub(super) fn on_overflow(&mut self, now: Duration, mtu: u64) {
        if let Some(cubic) = &mut self.cubic {
            let window = cubic.window(now, mtu);
            *cubic = Cubic {
                largest: window,
                started_at: now,
                start: (window as f64 * CUBIC_BETA) as u64,
            };
        }
    }
}

/// The window of RFC 9438, 4.2, since its last decrease.
#[derive(Clone, Debug)]
struct Cubic {
    /// Window before the last decrease, bytes.
    largest: u64,
    /// Window after it, bytes.
    start: u64,
    started_at: Duration,
}

impl Cubic {
    fn new(now: Duration, window: u64) -> Self {
        Self {
            largest: window,
            start: window,
            started_at: now,
        }
    }

    fn window(&self, now: Duration, mtu: u64) -> u64 {
        let mtu = mtu as f64;
        let largest = self.largest as f64 / mtu;
        let start = self.start as f64 / mtu;
        let plateau_after = ((largest - start).max(0.0) / CUBIC_C).cbrt();
        let t = now.saturating_sub(self.started_at).as_secs_f64() - plateau_after;
        ((largest + CUBIC_C * t.powi(3)) * mtu) as u64
    }
}
