//! The state machine: from what was acknowledged and lost to the window.

use std::time::Duration;

use super::delivery::{Delivery, Sample, bytes_in};
use super::filter::{MinRtt, WindowedMax};
use super::loss::LossMeter;
use super::rival::Rival;
use super::{Class, Snapshot, State};

/// Initial window, packets (RFC 9002, 7.2).
const WINDOW_INITIAL_PACKETS: u64 = 10;

/// Smallest window, packets. Four keep an acknowledgement of every second packet flowing.
const WINDOW_MIN_PACKETS: u64 = 4;

/// Largest window, bytes: 1 Gbit/s over 500 ms. What an endless stream of false acknowledgements
/// can make the sender hold.
const WINDOW_MAX: u64 = 64 << 20;

/// A round lasts one round trip, but not less than this: rounds of a LAN would hold too few
/// packets, and fewer than one late acknowledgement, to tell anything.
const ROUND_MIN: Duration = Duration::from_millis(10);

/// Rounds for which the largest delivery rate counts: one whole cycle with its probe.
const RATE_ROUNDS: u64 = 10;

/// Time for which the smallest round trip counts.
const MIN_RTT_SPAN: Duration = Duration::from_secs(10);

/// Growth of the rate in a round of start-up that shows that the path is not yet full.
const STARTUP_GROWTH: f64 = 1.25;

/// Rounds without that growth that end start-up.
const STARTUP_FULL_ROUNDS: u32 = 3;

/// Window over bandwidth-delay product.
const GAIN_STARTUP: f64 = 2.0;
const GAIN_CRUISE: f64 = 1.04;
const GAIN_UP: f64 = 1.25;
const GAIN_DOWN: f64 = 0.95;
const GAIN_PROBE_RTT: f64 = 0.5;

/// Growth of the rate that makes a probe go on.
const PROBE_GROWTH: f64 = 1.1;

/// Shortest time with a nearly empty path while measuring the smallest round trip.
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);

/// Rounds of cruising between probes: the least, and how many a random part adds, so that flows
/// that started together do not probe together.
const CRUISE_ROUNDS_MIN: u32 = 4;
const CRUISE_ROUNDS_SPREAD: u32 = 3;

/// Rounds of cruising in company, where the path is filled without probes.
const CRUISE_ROUNDS_COMPANY: u32 = 12;

/// Doublings of the pause after probes that only caused losses.
const PROBE_BACKOFF_MAX: u32 = 3;

/// What is left of the window's bound after a round that lost too much.
const BOUND_DECREASE: f64 = 0.85;

/// What a loss-free probe adds to that bound.
const BOUND_INCREASE: f64 = 1.1;

/// Congestion controller of one connection. See the [module](super) for the order of calls.
#[derive(Clone, Debug)]
pub struct Controller {
    class: Class,
    mtu: u64,
    random: u64,

    delivery: Delivery,
    in_flight: u64,
    lost: u64,
    rate: WindowedMax,
    min_rtt: MinRtt,
    smoothed_rtt: Option<Duration>,
    aggregation: Aggregation,
    round: Round,

    phase: Phase,
    loss: LossMeter,
    /// Upper bound of the window after losses beyond the random ones.
    bound: Option<u64>,
    probe_backoff: u32,
    rival: Rival,
    /// Window of the last cruise: what the flow holds when it neither probes nor drains.
    cruise_window: u64,
    window: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Startup {
        /// Largest rate of a round that still grew.
        full_rate: u64,
        full_rounds: u32,
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
        until: Option<Duration>,
        rtt: Option<Duration>,
    },
}

/// The round at hand: from a departure until its acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Round {
    number: u64,
    started_at: Duration,
    /// The round ends when a packet is acknowledged that left after this much was delivered.
    ends_at_delivered: u64,
    rtt_min: Option<Duration>,
    app_limited: bool,
    marked: bool,
}

impl Controller {
    /// A controller for a new path. `mtu` is the size of a full packet in bytes; `seed` makes
    /// flows probe at different times.
    pub fn new(now: Duration, mtu: u16, class: Class, seed: u64) -> Self {
        let mtu = u64::from(mtu.max(1));
        let window = WINDOW_INITIAL_PACKETS * mtu;
        Self {
            class,
            mtu,
            random: seed | 1,
            delivery: Delivery::new(now),
            in_flight: 0,
            lost: 0,
            rate: WindowedMax::new(RATE_ROUNDS),
            min_rtt: MinRtt::new(MIN_RTT_SPAN),
            smoothed_rtt: None,
            aggregation: Aggregation::new(now),
            round: Round {
                number: 0,
                started_at: now,
                ends_at_delivered: 0,
                rtt_min: None,
                app_limited: false,
                marked: false,
            },
            phase: Phase::Startup {
                full_rate: 0,
                full_rounds: 0,
            },
            loss: LossMeter::default(),
            bound: None,
            probe_backoff: 0,
            rival: Rival::default(),
            cruise_window: window,
            window,
        }
    }

    /// Bytes that may be on the path; at least four packets, at most 64 MiB.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Window of a new path, bytes.
    pub fn initial_window(&self) -> u64 {
        WINDOW_INITIAL_PACKETS * self.mtu
    }

    /// Changes the class; takes effect with the next acknowledgement.
    pub fn set_class(&mut self, class: Class) {
        self.class = class;
    }

    /// The size of a full packet changed.
    pub fn on_mtu(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu.max(1));
        self.window = self.clamp(self.window);
    }

    /// Packets of `bytes` in all left at `now`.
    pub fn on_sent(&mut self, now: Duration, bytes: u64) {
        self.delivery.on_sent(now, self.in_flight == 0);
        self.in_flight = self.in_flight.saturating_add(bytes);
    }

    /// A packet of `bytes` that left at `sent_at` was acknowledged.
    pub fn on_acked(&mut self, now: Duration, sent_at: Duration, bytes: u64) {
        self.delivery.on_acked(now, sent_at, bytes);
        self.loss.on_delivered(bytes);
        self.aggregation.on_acked(bytes);
    }

    /// All packets of one acknowledgement were reported. `in_flight` is what is still on the path;
    /// `app_limited` says that the sender had nothing more to send before it.
    pub fn on_acks_ended(&mut self, now: Duration, in_flight: u64, app_limited: bool) {
        self.in_flight = in_flight;
        self.round.app_limited |= app_limited;
        let Some(sample) = self
            .delivery
            .end_batch(now, self.min_rtt.get(), app_limited)
        else {
            return;
        };
        self.update_model(now, &sample);
        if matches!(self.phase, Phase::Startup { .. }) {
            self.grow_startup(app_limited);
        }
        let round_over = sample.prior_delivered >= self.round.ends_at_delivered
            && now.saturating_sub(self.round.started_at) >= ROUND_MIN;
        if round_over {
            self.end_round(now);
        }
        self.step_probe_rtt(now);
        self.set_window(now);
    }

    /// Packets of `bytes` in all were declared lost. `persistent`: nothing was delivered over
    /// several probe timeouts (RFC 9002, 7.6).
    pub fn on_lost(&mut self, now: Duration, bytes: u64, persistent: bool) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.lost = self.lost.saturating_add(bytes);
        self.loss.on_lost(bytes);
        if persistent {
            self.restart(now);
        }
    }

    /// The path marked packets instead of dropping them (ECN): answered like losses beyond the
    /// random ones, once per round.
    pub fn on_marked(&mut self, now: Duration) {
        if self.round.marked {
            return;
        }
        self.round.marked = true;
        self.on_overrun(now);
        self.set_window(now);
    }

    /// What the controller knows.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            state: match self.phase {
                Phase::Startup { .. } => State::Startup,
                Phase::Drain { .. } => State::Drain,
                Phase::Cruise { .. } => State::Cruise,
                Phase::ProbeUp { .. } => State::ProbeUp,
                Phase::ProbeDown { .. } => State::ProbeDown,
                Phase::ProbeRtt { .. } => State::ProbeRtt,
            },
            window: self.window,
            rate: self.rate.get(),
            min_rtt: self.min_rtt.get(),
            smoothed_rtt: self.smoothed_rtt,
            delivered: self.delivery.delivered(),
            lost: self.lost,
            in_company: self.rival.is_present(),
        }
    }

    fn update_model(&mut self, now: Duration, sample: &Sample) {
        let rtt = sample.rtt;
        self.min_rtt.insert(now, rtt);
        self.round.rtt_min = Some(self.round.rtt_min.map_or(rtt, |min| min.min(rtt)));
        self.smoothed_rtt = Some(self.smoothed_rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        if let Some(rate) = sample.rate
            && (!sample.app_limited || rate > self.rate.get())
        {
            self.rate.insert(self.round.number, rate);
        }
        self.aggregation
            .end_batch(now, self.rate.get(), self.round.number);
    }

    /// Doubles per round, and not beyond twice what the path is known to carry: one round trip
    /// after the path is full, the window stops at a queue of one bandwidth-delay product.
    fn grow_startup(&mut self, app_limited: bool) {
        if app_limited {
            return;
        }
        let acked = self.aggregation.batch;
        let mut window = self.window.saturating_add(acked);
        if self.rate.get() > 0 {
            window = window.min(self.target(GAIN_STARTUP)).max(self.window);
        }
        self.window = self.clamp(window);
    }

    fn end_round(&mut self, now: Duration) {
        let round = self.round;
        let delivered = self.delivery.delivered();
        self.round = Round {
            number: round.number + 1,
            started_at: now,
            ends_at_delivered: delivered,
            rtt_min: None,
            app_limited: false,
            marked: false,
        };
        let overrun = self.loss.verdict(self.mtu) == Some(true);
        if overrun {
            self.on_overrun(now);
        }
        if !round.app_limited {
            self.rate.expire(self.round.number);
            self.step(now, &round, overrun);
        }
        let resting = matches!(self.phase, Phase::Cruise { .. });
        if resting && self.min_rtt.is_stale(now) {
            self.phase = Phase::ProbeRtt {
                until: None,
                rtt: None,
            };
        }
    }

    /// More was lost than the path loses at random: bounds the window by what got through.
    fn on_overrun(&mut self, now: Duration) {
        let bound = self.target(1.0).min(self.window);
        let bound = (bound as f64 * BOUND_DECREASE) as u64;
        self.bound = Some(self.clamp(bound));
        self.rival.on_overflow(now, self.mtu);
    }

    fn step(&mut self, now: Duration, round: &Round, overrun: bool) {
        let rate = self.rate.get();
        self.phase = match self.phase {
            Phase::Startup {
                full_rate,
                full_rounds,
            } => {
                if rate as f64 >= full_rate as f64 * STARTUP_GROWTH && !overrun {
                    Phase::Startup {
                        full_rate: rate,
                        full_rounds: 0,
                    }
                } else if overrun
                    || full_rounds + 1 >= STARTUP_FULL_ROUNDS
                    || self.queue_over(round, 1.25)
                {
                    Phase::Drain { rounds: 0 }
                } else {
                    Phase::Startup {
                        full_rate,
                        full_rounds: full_rounds + 1,
                    }
                }
            }
            Phase::Drain { rounds } => {
                if rounds >= 2 || !self.queue_over(round, 1.05) {
                    self.cruise()
                } else {
                    Phase::Drain { rounds: rounds + 1 }
                }
            }
            Phase::Cruise { rounds_left } => match rounds_left.checked_sub(1) {
                Some(rounds_left) => Phase::Cruise { rounds_left },
                None if self.rival.is_present() => Phase::ProbeDown { rounds: 0 },
                None => Phase::ProbeUp {
                    rounds: 0,
                    rate_before: rate,
                },
            },
            Phase::ProbeUp {
                rounds,
                rate_before,
            } => {
                if overrun {
                    self.probe_backoff = (self.probe_backoff + 1).min(PROBE_BACKOFF_MAX);
                    Phase::ProbeDown { rounds: 0 }
                } else if rounds == 0 {
                    Phase::ProbeUp {
                        rounds: 1,
                        rate_before,
                    }
                } else {
                    self.probe_backoff = 0;
                    self.bound = self.bound.and_then(|bound| {
                        let bound = (bound as f64 * BOUND_INCREASE) as u64;
                        (bound < self.target(GAIN_STARTUP)).then_some(bound)
                    });
                    if rate as f64 >= rate_before as f64 * PROBE_GROWTH {
                        Phase::ProbeUp {
                            rounds: 1,
                            rate_before: rate,
                        }
                    } else {
                        Phase::ProbeDown { rounds: 0 }
                    }
                }
            }
            Phase::ProbeDown { rounds } => {
                // The first round's acknowledgements still come from before it.
                if rounds > 0
                    && let (Some(rtt), Some(min)) = (round.rtt_min, self.min_rtt.get())
                {
                    self.rival.on_drained(now, rtt, min, self.cruise_window);
                    self.cruise()
                } else {
                    Phase::ProbeDown { rounds: rounds + 1 }
                }
            }
            phase @ Phase::ProbeRtt { .. } => phase,
        };
    }

    /// Starts over, knowing only the smallest round trip.
    fn restart(&mut self, now: Duration) {
        self.rate.clear();
        self.bound = None;
        self.probe_backoff = 0;
        self.rival = Rival::default();
        self.loss.reset();
        self.phase = Phase::Startup {
            full_rate: 0,
            full_rounds: 0,
        };
        self.round.started_at = now;
        self.round.ends_at_delivered = self.delivery.delivered();
        self.window = self.clamp(0);
    }

    fn step_probe_rtt(&mut self, now: Duration) {
        let Phase::ProbeRtt { until, rtt } = self.phase else {
            return;
        };
        let Some(until) = until else {
            if self.in_flight <= self.target(GAIN_PROBE_RTT) {
                let hold = PROBE_RTT_TIME.max(self.min_rtt.get().unwrap_or_default());
                self.phase = Phase::ProbeRtt {
                    until: Some(now + hold),
                    rtt: None,
                };
            }
            return;
        };
        let rtt = match (rtt, self.round.rtt_min) {
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
            self.min_rtt.replace(now, rtt);
            self.phase = self.cruise();
        }
    }

    fn cruise(&mut self) -> Phase {
        let rounds_left = if self.rival.is_present() {
            CRUISE_ROUNDS_COMPANY
        } else {
            (CRUISE_ROUNDS_MIN + self.draw(CRUISE_ROUNDS_SPREAD)) << self.probe_backoff
        };
        Phase::Cruise { rounds_left }
    }

    /// Whether every round trip of the round was above `gain` times the smallest.
    fn queue_over(&self, round: &Round, gain: f64) -> bool {
        match (round.rtt_min, self.min_rtt.get()) {
            (Some(rtt), Some(min)) => rtt > min.mul_f64(gain) + Duration::from_millis(1),
            _ => false,
        }
    }

    fn set_window(&mut self, now: Duration) {
        let window = match self.phase {
            Phase::Startup { .. } => return,
            Phase::Drain { .. } | Phase::ProbeDown { .. } => self.target(GAIN_DOWN),
            Phase::ProbeRtt { .. } => self.target(GAIN_PROBE_RTT),
            Phase::ProbeUp { .. } => self.target(GAIN_UP),
            Phase::Cruise { .. } => {
                let model = self.target(GAIN_CRUISE);
                self.cruise_window = model.max(self.rival.window(now, self.mtu).unwrap_or(0));
                self.cruise_window
            }
        };
        let bounded = match (self.bound, self.phase) {
            (Some(bound), Phase::ProbeUp { .. }) => {
                window.min((bound as f64 * BOUND_INCREASE) as u64)
            }
            (Some(bound), _) => window.min(bound),
            (None, _) => window,
        };
        self.window = self.clamp(bounded);
    }

    /// `gain` times what the path holds without a queue, and what acknowledgements that come in
    /// bursts keep from being seen.
    fn target(&self, gain: f64) -> u64 {
        let Some(min_rtt) = self.min_rtt.get() else {
            return self.initial_window();
        };
        let product = bytes_in(self.rate.get(), min_rtt);
        (product as f64 * gain) as u64 + self.aggregation.get()
    }

    fn clamp(&self, window: u64) -> u64 {
        window.clamp(WINDOW_MIN_PACKETS * self.mtu, WINDOW_MAX)
    }

    /// A number below `n` (xorshift64*).
    fn draw(&mut self, n: u32) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let high = (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32;
        high % n
    }
}

/// How far acknowledgements run ahead of the delivery rate when they come in bursts.
#[derive(Clone, Debug)]
struct Aggregation {
    since: Duration,
    acked: u64,
    batch: u64,
    pending: u64,
    excess: WindowedMax,
}

impl Aggregation {
    fn new(now: Duration) -> Self {
        Self {
            since: now,
            acked: 0,
            batch: 0,
            pending: 0,
            excess: WindowedMax::new(RATE_ROUNDS),
        }
    }

    fn on_acked(&mut self, bytes: u64) {
        self.pending = self.pending.saturating_add(bytes);
    }

    fn end_batch(&mut self, now: Duration, rate: u64, round: u64) {
        self.batch = std::mem::take(&mut self.pending);
        let mut expected = bytes_in(rate, now.saturating_sub(self.since));
        if self.acked <= expected {
            self.since = now;
            self.acked = 0;
            expected = 0;
        }
        self.acked = self.acked.saturating_add(self.batch);
        self.excess
            .insert(round, self.acked.saturating_sub(expected));
    }

    fn get(&self) -> u64 {
        self.excess.get()
    }
}
