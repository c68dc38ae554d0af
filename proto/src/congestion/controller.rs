//! From what was acknowledged and lost to the window.

mod phase;

use std::time::Duration;

use super::deference::queue_shows;
use super::delivery::{bytes_in, time_of};
use super::loss::{LossMeter, Verdict};
use super::model::{Model, Round};
use super::rival::{Observation, Rival, rival_shows};
use super::{Class, Snapshot, State};
use phase::{Phase, STARTUP};

/// Smallest size of a full packet that a path of QUIC carries (RFC 9000, 14).
const MTU_MIN: u16 = 1200;

/// Initial window, packets (RFC 9002, 7.2).
const WINDOW_INITIAL_PACKETS: u64 = 10;

/// Once the handshake has shown the round trip, the first window is what this rate carries in it,
/// bytes per second: 4 Mbit/s, paced, is no burst on any path that images take. Most packets of it.
const FIRST_RATE: u64 = 500_000;
const FIRST_WINDOW_MAX_PACKETS: u64 = 32;

/// Smallest window, packets: four keep acknowledgements of every second packet flowing; a
/// background flow makes do with fewer.
const WINDOW_MIN_PACKETS: u64 = 4;
const WINDOW_MIN_PACKETS_BACKGROUND: u64 = 3;

/// Largest window, bytes: 1 Gbit/s over 500 ms. What an endless stream of false acknowledgements
/// can make the sender hold.
const WINDOW_MAX: u64 = 64 << 20;

/// With fewer packets in a round, each may have been acknowledged as late as a receiver is allowed
/// to (RFC 9000, 18.2), and been held on the way back besides: the round trip tells nothing of a
/// shorter queue.
const FEW_PACKETS: u64 = 16;
const ACK_DELAY_MAX: Duration = Duration::from_millis(25);

/// With more, each may have waited for the next, which was acknowledged with it.
const ACKED_TOGETHER: u64 = 2;

/// Time for which the smallest round trip counts without being seen again. Background flows stand
/// aside for as long as a queue lasts, and must not come to take it for the path.
const MIN_RTT_SPAN: Duration = Duration::from_secs(10);
const MIN_RTT_SPAN_BACKGROUND: Duration = Duration::from_secs(60);

/// Part of the window that may be unused while it counts as full: what the pacer has yet to let out.
const FULL_MARGIN: u64 = 16;

// Window over bandwidth-delay product.
const GAIN_STARTUP: f64 = 2.0;
const GAIN_CRUISE: f64 = 1.04;
const GAIN_UP: f64 = 1.25;
const GAIN_DOWN: f64 = 0.95;
const GAIN_PROBE_RTT: f64 = 0.5;

/// Doublings of the pause after probes that only caused losses.
const PROBE_BACKOFF_MAX: u32 = 3;

/// Part of what got through in an overrun that is used until the next probe.
const HEADROOM: f64 = 0.98;

/// What each round of a probe without overrun adds to the bound of the window.
const BOUND_INCREASE: f64 = 1.15;

/// Smallest part of the window that an overrun leaves: a burst of losses says little of the path.
const BOUND_LEAST: f64 = 0.5;

/// What a round without overrun adds where there are no probes: for background flows, and beside a
/// rival that does not yield.
const BOUND_INCREASE_ROUND: f64 = 1.02;

/// What is left of the window after an overrun beside a rival that does not yield.
const BOUND_DECREASE_STUBBORN: f64 = 0.95;

/// Congestion controller of one path. See the [module](super) for the order of calls.
#[derive(Clone, Debug)]
pub struct Controller {
    class: Class,
    mtu: u64,
    random: u64,
    model: Model,
    in_flight: u64,
    use_of_window: UseOfWindow,
    /// Window of the first round: larger than the initial one once the round trip is known.
    first_window: Option<u64>,
    phase: Phase,
    loss: LossMeter,
    /// Upper bound of the window after an overrun.
    bound: Option<u64>,
    /// What it was before the last probe: what fitted then still fits when a probe goes too far.
    bound_before: u64,
    /// The path marked packets in this round.
    marked: bool,
    probe_backoff: u32,
    rival: Rival,
    /// Window of the last cruise: what the flow holds when it neither probes nor drains.
    cruise_window: u64,
    window: u64,
}

/// Whether the window limits the sender in a round, or something else does: late timers of the
/// pacer, a budget. Only the former's rate is the path's.
#[derive(Clone, Copy, Debug, Default)]
struct UseOfWindow {
    /// Bytes acknowledged while the window was full, and in all.
    full: u64,
    all: u64,
}

impl UseOfWindow {
    fn on_acked(&mut self, bytes: u64, was_full: bool) {
        self.all = self.all.saturating_add(bytes);
        if was_full {
            self.full = self.full.saturating_add(bytes);
        }
    }

    fn is_full(self) -> bool {
        self.full >= self.all / 2
    }
}

impl Controller {
    /// A controller for a new path. `mtu` is the size of a full packet in bytes; `seed` makes
    /// flows probe at different times.
    pub fn new(now: Duration, mtu: u16, class: Class, seed: u64) -> Self {
        let mtu = u64::from(mtu.max(MTU_MIN));
        let window = WINDOW_INITIAL_PACKETS * mtu;
        Self {
            class,
            mtu,
            random: seed | 1,
            model: Model::new(now),
            in_flight: 0,
            use_of_window: UseOfWindow::default(),
            first_window: None,
            phase: STARTUP,
            loss: LossMeter::new(),
            bound: None,
            bound_before: 0,
            marked: false,
            probe_backoff: 0,
            rival: Rival::default(),
            cruise_window: window,
            window,
        }
    }

    /// Bytes that may be on the path; at least three packets, at most 64 MiB.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Window of a new path, bytes.
    pub fn initial_window(&self) -> u64 {
        WINDOW_INITIAL_PACKETS * self.mtu
    }

    /// Changes the class; takes effect with the next acknowledgement.
    pub fn set_class(&mut self, class: Class) {
        if self.class == class {
            return;
        }
        self.class = class;
        self.phase = match (class, self.phase) {
            (Class::Interactive, Phase::Defer(_)) => STARTUP,
            (_, phase) => phase,
        };
    }

    /// The size of a full packet changed.
    pub fn on_mtu(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu.max(MTU_MIN));
        self.window = self.clamp(self.window);
    }

    /// Packets of `bytes` in all left at `now`.
    pub fn on_sent(&mut self, now: Duration, bytes: u64) {
        self.model.on_sent(now, self.in_flight == 0);
        self.in_flight = self.in_flight.saturating_add(bytes);
    }

    /// A packet of `bytes` that left at `sent_at` was acknowledged.
    pub fn on_acked(&mut self, now: Duration, sent_at: Duration, bytes: u64) {
        self.model.on_acked(now, sent_at, bytes);
        self.loss.on_delivered(bytes);
    }

    /// All packets of one acknowledgement were reported. `in_flight` is what is still on the path;
    /// `app_limited` says that the sender had nothing more to send before it.
    pub fn on_acks_ended(&mut self, now: Duration, in_flight: u64, app_limited: bool) {
        let was_full = self.in_flight >= self.window - self.window / FULL_MARGIN;
        self.in_flight = in_flight;
        let filled = self.use_of_window.is_full();
        let (acked, round) = self.model.end_batch(now, app_limited, filled);
        self.use_of_window.on_acked(acked, was_full);
        self.open_first_window();
        if self.is_starting() && !app_limited {
            self.grow_startup(acked);
        }
        if let Some(round) = round {
            self.use_of_window = UseOfWindow::default();
            self.end_round(now, &round);
        }
        self.set_window(now);
    }

    /// Packets of `bytes` in all were declared lost. `persistent`: nothing was delivered over
    /// several probe timeouts (RFC 9002, 7.6).
    pub fn on_lost(&mut self, now: Duration, bytes: u64, persistent: bool) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.model.on_lost(bytes);
        self.loss.on_lost(bytes);
        if persistent {
            self.restart(now);
        } else {
            self.heed_losses(now);
        }
    }

    /// Where more is sent than is known to fit, losses are heeded at once: the rest of the round need not be lost as
    /// well. A burst has other causes.
    fn heed_losses(&mut self, now: Duration) {
        let lost = self.model.lost_in_round();
        let heeded = self.loss.is_excessive(self.window, lost, self.mtu)
            && !self.model.lost_at_once()
            && !self.rival.is_present();
        if !heeded {
            return;
        }
        self.phase = match self.phase {
            Phase::Startup { .. } => Phase::Drain { rounds: 0 },
            Phase::ProbeUp { .. } if self.bound.is_some() => {
                self.back_off_probes();
                Phase::ProbeDown { rounds: 0 }
            }
            _ => return,
        };
        self.set_window(now);
    }

    /// The path marked packets instead of dropping them (ECN): answered like an overrun, once per
    /// round.
    pub fn on_marked(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.marked, true) {
            self.on_overrun(1.0 - GAIN_DOWN, None);
            self.set_window(now);
        }
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
                Phase::Defer(_) => State::Defer,
            },
            window: self.window,
            rate: self.model.rate(),
            min_rtt: self.model.min_rtt.get(),
            latest_rtt: self.model.latest_rtt(),
            smoothed_rtt: self.model.smoothed_rtt(),
            delivered: self.model.delivered(),
            lost: self.model.lost(),
            in_company: self.rival.is_present(),
        }
    }

    /// Doubles per round, and not beyond twice what the path is known to carry: one round trip
    /// after the path is full, the window stops at a queue of one bandwidth-delay product.
    fn grow_startup(&mut self, acked: u64) {
        let mut window = self.window.saturating_add(acked);
        if self.model.rate() > 0 {
            let carried = self
                .target(GAIN_STARTUP)
                .max(self.first_window.unwrap_or(0) * 2);
            window = window.min(carried).max(self.window);
        }
        self.window = self.clamp(window);
    }

    /// Once only: what was lost or forgotten later starts from less.
    fn open_first_window(&mut self) {
        if self.first_window.is_none()
            && let Some(rtt) = self.model.min_rtt.get()
        {
            let packets = bytes_in(FIRST_RATE, rtt) / self.mtu;
            let first = packets.clamp(WINDOW_INITIAL_PACKETS, FIRST_WINDOW_MAX_PACKETS) * self.mtu;
            self.first_window = Some(first);
            self.window = self.clamp(self.window.max(first));
        }
    }

    fn end_round(&mut self, now: Duration, round: &Round) {
        self.marked = false;
        if let (Some((rtt, _)), Some(min_rtt)) = (round.rtt, self.model.min_rtt.get()) {
            let seen = Observation {
                rtt,
                min_rtt,
                lost: round.lost > 0,
                excessive: self.is_excessive(round),
                window: self.window,
                steady: matches!(self.phase, Phase::Cruise { .. }),
            };
            self.rival.on_round(now, self.mtu, seen);
        }
        let (alone, burst) = (!self.rival.is_present(), round.lost_at_once());
        let verdict = match self.loss.judge(self.mtu, alone, burst) {
            // What a round before has lost, as when the handshake's last packet is lost and all data
            // with it, says nothing once a round has gone well.
            Verdict::Overrun(_) if self.is_starting() && !self.is_excessive(round) => {
                Verdict::Tolerable
            }
            verdict => verdict,
        };
        match verdict {
            Verdict::Overrun(_) if self.is_of_others(round) => {
                let rtt = round.rtt.map_or(Duration::ZERO, |(rtt, _)| rtt);
                self.rival
                    .on_overflow_of_others(now, self.mtu, rtt, self.window);
                self.bound = None;
                self.phase = self.rest();
            }
            Verdict::Overrun(share) => self.on_overrun(share, Some(round)),
            Verdict::Indifferent => {
                self.bound = None;
                self.probe_backoff = 0;
            }
            Verdict::Tolerable if self.rival.is_stubborn() => {
                self.raise_bound(BOUND_INCREASE_ROUND);
            }
            Verdict::Tolerable => {}
        }
        // A background flow that sends now and then makes way as well: its window was right when it last sent.
        let makes_way = self.class == Class::Background && self.queue_shows(round);
        if !round.app_limited || makes_way {
            let overrun = matches!(verdict, Verdict::Overrun(_)) && !self.rival.is_present();
            self.step(now, round, overrun);
        }
        let span = match self.class {
            Class::Interactive => MIN_RTT_SPAN,
            Class::Background => MIN_RTT_SPAN_BACKGROUND,
        };
        let resting = matches!(self.phase, Phase::Cruise { .. } | Phase::Defer(_));
        if resting && self.model.min_rtt.is_stale(now, span) {
            self.phase = Phase::ProbeRtt {
                until: None,
                rtt: None,
            };
        }
    }

    /// Whether a round saw a queue that our own window does not explain, so that its losses are a rival's doing.
    fn is_of_others(&self, round: &Round) -> bool {
        let (Some((rtt, _)), Some(min_rtt)) = (round.rtt, self.model.min_rtt.get()) else {
            return false;
        };
        let knows_path = matches!(
            self.phase,
            Phase::Cruise { .. } | Phase::ProbeUp { .. } | Phase::ProbeDown { .. }
        );
        let ours = self.window as f64 / self.model.product().max(1) as f64;
        knows_path
            && !self.rival.is_present()
            && rival_shows(rtt, min_rtt.mul_f64(ours.clamp(1.0, GAIN_STARTUP)))
    }

    /// More was lost than the path loses anyway: bounds the window by what got through.
    fn on_overrun(&mut self, share: f64, round: Option<&Round>) {
        if let Phase::Defer(deference) = &mut self.phase {
            deference.on_overrun();
            self.window = self.clamp((self.window as f64 * (1.0 - share)) as u64);
            return;
        }
        let bound = match round {
            _ if self.rival.is_stubborn() => self.window as f64 * BOUND_DECREASE_STUBBORN,
            Some(round) if !round.lost_at_once() => round.carried() as f64 * HEADROOM,
            _ => self.window as f64 * ((1.0 - share) * HEADROOM).max(BOUND_LEAST),
        };
        let mut bound = (bound as u64).min(self.bound.unwrap_or(self.window));
        if matches!(self.phase, Phase::ProbeUp { .. } | Phase::ProbeDown { .. }) {
            bound = bound.max(self.bound_before);
        }
        self.bound = Some(self.clamp(bound));
    }

    fn raise_bound(&mut self, factor: f64) {
        let most = if self.rival.is_stubborn() {
            GAIN_STARTUP
        } else {
            GAIN_UP
        };
        self.bound = self.bound.and_then(|bound| {
            let bound = (bound as f64 * factor) as u64;
            (bound < self.target(most)).then_some(bound)
        });
    }

    fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Startup { .. })
    }

    /// Whether a round lost more than the path loses anyway.
    fn is_excessive(&self, round: &Round) -> bool {
        self.loss
            .is_excessive(round.delivered, round.lost, self.mtu)
    }

    fn back_off_probes(&mut self) {
        self.probe_backoff = (self.probe_backoff + 1).min(PROBE_BACKOFF_MAX);
    }

    /// Starts over, knowing only the smallest round trip.
    fn restart(&mut self, now: Duration) {
        self.model.restart(now);
        self.loss.reset();
        self.bound = None;
        self.probe_backoff = 0;
        self.rival = Rival::default();
        self.phase = STARTUP;
        self.window = self.clamp(0);
    }

    /// Smallest round trip of a round without what the receiver may have waited, and the path's.
    fn round_trips(&self, round: &Round) -> Option<(Duration, Duration)> {
        let (rtt, _) = round.rtt?;
        let min_rtt = self.model.min_rtt.get()?;
        let waited = if round.delivered < FEW_PACKETS * self.mtu {
            ACK_DELAY_MAX + min_rtt / 4
        } else {
            time_of(ACKED_TOGETHER * self.mtu, round.rate)
        };
        Some((rtt.saturating_sub(waited), min_rtt))
    }

    fn queue_shows(&self, round: &Round) -> bool {
        self.round_trips(round)
            .is_some_and(|(rtt, min)| queue_shows(rtt, min))
    }

    fn set_window(&mut self, now: Duration) {
        if let Phase::ProbeRtt { until, rtt } = self.phase {
            self.step_probe_rtt(now, until, rtt);
        }
        let window = match self.phase {
            // Grown by what was acknowledged, and by rounds, elsewhere.
            Phase::Startup { .. } | Phase::Defer(_) => self.window,
            Phase::Drain { .. } | Phase::ProbeDown { .. } => self.target(GAIN_DOWN),
            Phase::ProbeRtt { .. } => self.target(GAIN_PROBE_RTT),
            Phase::ProbeUp { .. } => self.target(GAIN_UP),
            Phase::Cruise { .. } => {
                let fair = self.rival.window(now, self.mtu, self.model.product());
                self.cruise_window = self.target(GAIN_CRUISE).max(fair.unwrap_or(0));
                self.cruise_window
            }
        };
        let yielding = self.rival.is_present() && !self.rival.is_stubborn();
        let bound = match (self.bound, self.phase) {
            // A rival that yields shares the losses, and its window answers them.
            _ if yielding => u64::MAX,
            (Some(bound), Phase::ProbeUp { .. }) => (bound as f64 * BOUND_INCREASE) as u64,
            (bound, _) => bound.unwrap_or(u64::MAX),
        };
        self.window = self.clamp(window.min(bound));
    }

    /// `gain` times what the path holds without a queue, and what bursts of acknowledgements hide.
    fn target(&self, gain: f64) -> u64 {
        if self.model.min_rtt.get().is_none() {
            return self.initial_window();
        }
        (self.model.product() as f64 * gain) as u64 + self.model.aggregation()
    }

    fn clamp(&self, window: u64) -> u64 {
        let least = match self.class {
            Class::Interactive => WINDOW_MIN_PACKETS,
            Class::Background => WINDOW_MIN_PACKETS_BACKGROUND,
        };
        window.clamp(least * self.mtu, WINDOW_MAX)
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
