//! The states, and what leads from one to the next.

use std::time::Duration;

use super::super::Class;
use super::super::deference::{Deference, queue_shows};
use super::super::delivery::time_of;
use super::super::model::Round;
use super::{BOUND_INCREASE, Controller, GAIN_PROBE_RTT, WINDOW_MIN_PACKETS};

/// Growth of the rate in a round of start-up that shows that the path is not yet full.
const STARTUP_GROWTH: f64 = 1.25;

/// Rounds without that growth that end start-up.
const STARTUP_FULL_ROUNDS: u32 = 3;

/// Rounds after which start-up's queue is let out even if the round trip does not say so.
const DRAIN_ROUNDS_MAX: u32 = 3;

/// Growth of the rate that makes a probe go on.
const PROBE_GROWTH: f64 = 1.1;

/// Shortest time with a half-empty path while measuring the smallest round trip.
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);

/// Rounds of cruising between probes: the least, and how many a random part adds, so that flows
/// that started together do not probe together.
const CRUISE_ROUNDS_MIN: u32 = 4;
const CRUISE_ROUNDS_SPREAD: u32 = 3;

/// Rounds of cruising in company, where the path is full without probes, until the next look
/// whether the rival is still there.
const CRUISE_ROUNDS_COMPANY: u32 = 12;
const CRUISE_ROUNDS_STUBBORN: u32 = 100;

/// What a round leaves at least of a background window that was not used, though a queue shows.
const LEAST_LIMITED: f64 = 0.75;

#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    Startup {
        /// Largest rate of a round that still grew.
        full_rate: u64,
        full_rounds: u32,
        /// Smallest round trip since start-up began: what others queued before is not counted.
        rtt: Option<Duration>,
    },
    Drain {
        rounds: u32,
    },
    Cruise {
        rounds_left: u32,
    },
    ProbeUp {
        rounds: u32,
        rate_before: u64,
    },
    ProbeDown {
        rounds: u32,
    },
    ProbeRtt {
        /// Set once the path is half empty.
        until: Option<Duration>,
        rtt: Option<Duration>,
    },
    Defer(Deference),
}

pub(super) const STARTUP: Phase = Phase::Startup {
    full_rate: 0,
    full_rounds: 0,
    rtt: None,
};

impl Controller {
    /// After a round in which the sender was held back by the window, or has to make way.
    pub(super) fn step(&mut self, now: Duration, round: &Round, overrun: bool) {
        let rate = self.model.rate();
        self.phase = match self.phase {
            Phase::Startup {
                full_rate,
                full_rounds,
                rtt,
            } => self.step_startup(round, overrun, full_rate, full_rounds, rtt),
            Phase::Drain { rounds } => {
                if rounds < DRAIN_ROUNDS_MAX && self.queue_shows(round) {
                    Phase::Drain { rounds: rounds + 1 }
                } else {
                    self.rest()
                }
            }
            Phase::Cruise { .. } if self.class == Class::Background => self.rest(),
            Phase::Cruise { rounds_left } => match rounds_left.checked_sub(1) {
                Some(rounds_left) => Phase::Cruise { rounds_left },
                None if self.rival.is_present() => Phase::ProbeDown { rounds: 0 },
                None => {
                    self.bound_before = self.bound.unwrap_or(0);
                    Phase::ProbeUp {
                        rounds: 0,
                        rate_before: rate,
                    }
                }
            },
            Phase::ProbeUp {
                rounds,
                rate_before,
            } => self.step_probe_up(round, overrun, rounds, rate_before),
            // The first round's acknowledgements still come from before it.
            Phase::ProbeDown { rounds: 0 } => Phase::ProbeDown { rounds: 1 },
            Phase::ProbeDown { .. } => {
                if let Some((rtt, min)) = self.round_trips(round) {
                    // On a thin path the smallest window is a queue of its own.
                    let alone = min.max(time_of(WINDOW_MIN_PACKETS * self.mtu, round.rate));
                    self.rival.on_drained(now, rtt, alone, self.cruise_window);
                }
                self.rest()
            }
            Phase::Defer(mut deference) => {
                if let Some((rtt, min)) = self.round_trips(round) {
                    let delivered = self.model.at_min_rtt(round.rate);
                    let small = self.initial_window();
                    let next = deference.next_window(self.window, rtt, min, delivered, small);
                    // It was delivered what there was to send, and the path may carry more.
                    let least = (self.window as f64 * LEAST_LIMITED) as u64;
                    let least = if round.app_limited { least } else { 0 };
                    self.window = self.clamp(next.max(least));
                }
                Phase::Defer(deference)
            }
            phase @ Phase::ProbeRtt { .. } => phase,
        };
    }

    fn step_startup(
        &self,
        round: &Round,
        overrun: bool,
        full_rate: u64,
        full_rounds: u32,
        rtt_before: Option<Duration>,
    ) -> Phase {
        let rate = self.model.rate();
        let deferring = self.class == Class::Background;
        if overrun || deferring && self.queue_shows(round) {
            return Phase::Drain { rounds: 0 };
        }
        let round_rtt = round.rtt.map(|(rtt, _)| rtt);
        let rtt = match (round_rtt, rtt_before) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if rate as f64 >= full_rate as f64 * STARTUP_GROWTH {
            return Phase::Startup {
                full_rate: rate,
                full_rounds: 0,
                rtt,
            };
        }
        let queued = match (round_rtt, rtt) {
            (Some(now), Some(least)) => queue_shows(now, least),
            _ => false,
        };
        let full_rounds = full_rounds + 1;
        if full_rounds >= STARTUP_FULL_ROUNDS || queued {
            return Phase::Drain { rounds: 0 };
        }
        Phase::Startup {
            full_rate,
            full_rounds,
            rtt,
        }
    }

    fn step_probe_up(
        &mut self,
        round: &Round,
        overrun: bool,
        rounds: u32,
        rate_before: u64,
    ) -> Phase {
        let rate = self.model.rate();
        let bounded = self.bound.is_some();
        if overrun || bounded && self.is_excessive(round) {
            if !round.lost_at_once() {
                self.back_off_probes();
            }
            return Phase::ProbeDown { rounds: 0 };
        }
        // The first round only fills the path; the second shows what came of it.
        if rounds == 0 {
            return Phase::ProbeUp {
                rounds: 1,
                rate_before,
            };
        }
        self.raise_bound(BOUND_INCREASE);
        if self.bound.is_none() {
            self.probe_backoff = 0;
        }
        if bounded || rate as f64 >= rate_before as f64 * PROBE_GROWTH {
            Phase::ProbeUp {
                rounds: 1,
                rate_before: rate,
            }
        } else {
            Phase::ProbeDown { rounds: 0 }
        }
    }

    /// The phase between probes.
    pub(super) fn rest(&mut self) -> Phase {
        if self.class == Class::Background {
            self.bound = None;
            return Phase::Defer(Deference::default());
        }
        let rounds_left = if self.rival.is_stubborn() {
            CRUISE_ROUNDS_STUBBORN
        } else if self.rival.is_present() {
            CRUISE_ROUNDS_COMPANY
        } else {
            (CRUISE_ROUNDS_MIN + self.draw(CRUISE_ROUNDS_SPREAD)) << self.probe_backoff
        };
        Phase::Cruise { rounds_left }
    }

    /// At each acknowledgement while the smallest round trip is measured.
    pub(super) fn step_probe_rtt(
        &mut self,
        now: Duration,
        until: Option<Duration>,
        rtt: Option<Duration>,
    ) {
        let Some(until) = until else {
            if self.in_flight <= self.target(GAIN_PROBE_RTT) {
                // Until then, acknowledgements are for packets that saw the queue of before.
                let hold = PROBE_RTT_TIME.max(self.model.latest_rtt().unwrap_or_default());
                self.phase = Phase::ProbeRtt {
                    until: Some(now.saturating_add(hold)),
                    rtt: None,
                };
            }
            return;
        };
        let rtt = match (rtt, self.model.latest_rtt()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.phase = Phase::ProbeRtt {
            until: Some(until),
            rtt,
        };
        if now >= until
            && let Some(rtt) = rtt
        {
            self.model.min_rtt.replace(now, rtt);
            self.phase = self.rest();
        }
    }
}
