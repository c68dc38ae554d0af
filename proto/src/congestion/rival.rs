//! Company on the path: does another flow keep a queue there, and what window is then fair.
//!
//! A flow that keeps its window at what the path holds without a queue is starved by one that
//! fills the queue. So, while somebody else keeps a queue:
//!
//! - beside a rival that yields when the queue overflows, the window follows the law of TCP CUBIC
//!   (RFC 9438), by construction a fair rival of flows that fill queues;
//! - beside one that does not (BBR version 1, or a flow that knows no congestion), yielding alone
//!   would mean starving, and the window is a multiple of the model like that rival's own.

use std::time::Duration;

/// CUBIC's scaling constant, packets per cubic second (RFC 9438, 5.1).
const CUBIC_C: f64 = 0.4;

/// CUBIC's multiplicative decrease (RFC 9438, 4.6).
const CUBIC_BETA: f64 = 0.7;

/// Growth of the window per round until the queue overflows for the first time: where the flow stood
/// before says nothing of what is fair, if it came to a queue that was full already. Slower than
/// slow start, which would overrun the queue by as much as it holds.
const EXPLORING_GROWTH: f64 = 1.25;

/// Window over bandwidth-delay product beside a rival that never yields: the bound of BBR
/// version 1.
const GAIN_STUBBORN: f64 = 2.0;

/// A round trip this much above the smallest one, with our own queue let out, is a rival's queue.
const ARRIVED: f64 = 1.3;

/// Below this the rival's queue is gone.
const LEFT: f64 = 1.1;

/// Drains in a row that must show a rival's queue.
const ARRIVED_DRAINS: u32 = 2;

/// A queue shorter than this is not told from timer and acknowledgement delays.
const QUEUE_MIN: Duration = Duration::from_millis(2);

/// A loss is the queue's if the round trip was in the uppermost part of what was seen.
const FULL_SHARE: f64 = 0.8;

/// Rounds after an overflow until its effect is judged: one for the losses to be seen, one for the
/// rival to act, one to see it.
const JUDGE_AFTER_ROUNDS: u32 = 3;

/// A rival that yields takes the round trip below this share of what it was at the overflow...
const YIELDED_WITH_US: f64 = 0.82;
/// ...or below this if we did not yield.
const YIELDED_ALONE: f64 = 0.93;

/// Excess of overflows not answered by the rival over answered ones that makes it stubborn, and
/// the most that is remembered.
const STUBBORN_FROM: u32 = 2;
const STUBBORN_MAX: u32 = 3;

/// What a round showed of the company.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    /// Smallest round trip of the round: others may have waited for their acknowledgement.
    pub(super) rtt: Duration,
    pub(super) min_rtt: Duration,
    pub(super) lost: bool,
    /// More was lost than the path loses anyway.
    pub(super) excessive: bool,
    /// Bytes that the flow may have on the path.
    pub(super) window: u64,
    /// The flow neither probed nor drained.
    pub(super) steady: bool,
}

/// Decides whether there is company, and what is fair beside it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rival {
    drains: u32,
    company: Option<Company>,
}

impl Rival {
    pub(super) fn is_present(&self) -> bool {
        self.company.is_some()
    }

    /// A rival is present that does not yield when the queue overflows.
    pub(super) fn is_stubborn(&self) -> bool {
        self.company.as_ref().is_some_and(Company::is_stubborn)
    }

    /// Bytes that are fair to have on the path now, if there is company. `product` is the
    /// bandwidth-delay product.
    pub(super) fn window(&self, now: Duration, mtu: u64, product: u64) -> Option<u64> {
        let company = self.company.as_ref()?;
        Some(if company.is_stubborn() {
            (product as f64 * GAIN_STUBBORN) as u64
        } else {
            company.cubic.window(now, mtu)
        })
    }

    /// A round ended that began with our own queue let out. `window` is what the flow had on the
    /// path before that: the fair window starts there.
    pub(super) fn on_drained(
        &mut self,
        now: Duration,
        rtt: Duration,
        min_rtt: Duration,
        window: u64,
    ) {
        if self.company.is_some() {
            if rtt < min_rtt.mul_f64(LEFT) + QUEUE_MIN {
                *self = Self::default();
            }
        } else if rival_shows(rtt, min_rtt) {
            self.drains += 1;
            if self.drains >= ARRIVED_DRAINS {
                self.company = Some(Company {
                    cubic: Cubic::new(now, window, window),
                    rtt_full: rtt,
                    exploring: true,
                    overflow: None,
                    unanswered: 0,
                });
            }
        } else {
            self.drains = 0;
        }
    }

    /// The queue overflowed although our own window was too small for that: there is a rival, and we yield.
    pub(super) fn on_overflow_of_others(
        &mut self,
        now: Duration,
        mtu: u64,
        rtt: Duration,
        window: u64,
    ) {
        let mut company = Company {
            cubic: Cubic::new(now, window, window),
            rtt_full: rtt,
            exploring: false,
            overflow: None,
            unanswered: 0,
        };
        company.on_overflow(now, mtu, rtt);
        self.company = Some(company);
    }

    /// Any round ended.
    pub(super) fn on_round(&mut self, now: Duration, mtu: u64, seen: Observation) {
        let Some(company) = &mut self.company else {
            return;
        };
        company.rtt_full = company.rtt_full.max(seen.rtt);
        if let Some(overflow) = &mut company.overflow {
            overflow.rounds += 1;
            if overflow.rounds >= JUDGE_AFTER_ROUNDS && seen.steady {
                company.judge(now, seen);
            }
            return;
        }
        let queue = seen.rtt.saturating_sub(seen.min_rtt);
        let full = company.rtt_full.saturating_sub(seen.min_rtt);
        if company.exploring && seen.excessive {
            // Whatever the queue once was, it is full now: the path may have become faster.
            company.rtt_full = seen.rtt;
            company.on_overflow(now, mtu, seen.rtt);
        } else if seen.lost && queue >= full.mul_f64(FULL_SHARE) {
            company.on_overflow(now, mtu, seen.rtt);
        } else if company.exploring && seen.steady {
            company.explore(now, mtu);
        }
    }
}

/// Whether a round trip, with a queue of our own let out or allowed for in `expected`, is longer by a rival's queue.
pub(super) fn rival_shows(rtt: Duration, expected: Duration) -> bool {
    rtt > expected.mul_f64(ARRIVED) + QUEUE_MIN
}

/// The rival at hand.
#[derive(Clone, Debug)]
struct Company {
    cubic: Cubic,
    /// Largest round trip seen in this company: that of a full queue.
    rtt_full: Duration,
    /// The queue has not overflowed yet.
    exploring: bool,
    overflow: Option<Overflow>,
    unanswered: u32,
}

/// The queue's last overflow, until it is judged.
#[derive(Clone, Copy, Debug)]
struct Overflow {
    rtt: Duration,
    rounds: u32,
    we_yielded: bool,
}

impl Company {
    fn is_stubborn(&self) -> bool {
        self.unanswered >= STUBBORN_FROM
    }

    fn explore(&mut self, now: Duration, mtu: u64) {
        let grown = self.cubic.window(now, mtu) as f64 * EXPLORING_GROWTH;
        self.cubic = Cubic::new(now, grown as u64, grown as u64);
    }

    fn on_overflow(&mut self, now: Duration, mtu: u64, rtt: Duration) {
        self.exploring = false;
        let we_yielded = !self.is_stubborn();
        if we_yielded {
            let largest = self.cubic.window(now, mtu);
            let start = (largest as f64 * CUBIC_BETA) as u64;
            self.cubic = Cubic::new(now, largest, start);
        }
        self.overflow = Some(Overflow {
            rtt,
            rounds: 0,
            we_yielded,
        });
    }

    fn judge(&mut self, now: Duration, seen: Observation) {
        let Some(overflow) = self.overflow.take() else {
            return;
        };
        let share = if overflow.we_yielded {
            YIELDED_WITH_US
        } else {
            YIELDED_ALONE
        };
        let was_stubborn = self.is_stubborn();
        self.unanswered = if seen.rtt < overflow.rtt.mul_f64(share) {
            self.unanswered.saturating_sub(1)
        } else {
            (self.unanswered + 1).min(STUBBORN_MAX)
        };
        if was_stubborn && !self.is_stubborn() {
            // It has grown for as long as it was not used.
            self.cubic = Cubic::new(now, seen.window, seen.window);
        }
    }
}

/// The window of RFC 9438, 4.2, since its last decrease.
#[derive(Clone, Debug)]
struct Cubic {
    started_at: Duration,
    /// Window before the last decrease, bytes.
    largest: u64,
    /// Window after it, bytes.
    start: u64,
}

impl Cubic {
    fn new(now: Duration, largest: u64, start: u64) -> Self {
        Self {
            started_at: now,
            largest,
            start,
        }
    }

    fn window(&self, now: Duration, mtu: u64) -> u64 {
        let mtu = mtu as f64;
        let largest = self.largest as f64 / mtu;
        let start = self.start as f64 / mtu;
        let plateau_after = ((largest - start).max(0.0) / CUBIC_C).cbrt();
        let t = now.saturating_sub(self.started_at).as_secs_f64() - plateau_after;
        ((largest + CUBIC_C * t.powi(3)) * mtu).max(0.0) as u64
    }
}
