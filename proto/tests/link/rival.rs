//! TCP's algorithms as rivals: CUBIC (RFC 9438) and BBR version 1, reduced to what decides how
//! they share a link.

use std::collections::VecDeque;
use std::time::Duration;

use super::flow::{Algorithm, MTU};

/// RFC 9438 with HyStart's exit on delay; not paced, as Linux leaves it.
pub(crate) struct Cubic {
    window: f64,
    threshold: f64,
    largest: f64,
    epoch: Option<Duration>,
    origin: f64,
    friendly: f64,
    recovered_at: Duration,
    srtt: Duration,
    min_rtt: Duration,
}

impl Cubic {
    pub(crate) fn boxed() -> Box<dyn Algorithm> {
        Box::new(Self {
            window: 10.0,
            threshold: f64::MAX,
            largest: 0.0,
            epoch: None,
            origin: 0.0,
            friendly: 0.0,
            recovered_at: Duration::ZERO,
            srtt: Duration::ZERO,
            min_rtt: Duration::MAX,
        })
    }
}

impl Algorithm for Cubic {
    fn on_sent(&mut self, _now: Duration, _bytes: u64) {}

    fn on_acked(&mut self, now: Duration, sent_at: Duration, _bytes: u64) {
        let rtt = now - sent_at;
        self.srtt = if self.srtt.is_zero() {
            rtt
        } else {
            (self.srtt * 7 + rtt) / 8
        };
        self.min_rtt = self.min_rtt.min(rtt);
        if self.window < self.threshold {
            self.window += 1.0;
            let bump =
                (self.min_rtt / 8).clamp(Duration::from_millis(4), Duration::from_millis(16));
            if self.window > 16.0 && self.srtt > self.min_rtt + bump {
                self.threshold = self.window;
            }
            return;
        }
        let epoch = *self.epoch.get_or_insert_with(|| {
            self.origin = self.largest.max(self.window);
            self.friendly = self.window;
            now
        });
        let k = ((self.origin - self.window_at_epoch()).max(0.0) / 0.4).cbrt();
        let t = (now - epoch + self.srtt).as_secs_f64() - k;
        let target = self.origin + 0.4 * t.powi(3);
        self.friendly += 0.53 / self.window;
        let target = target.max(self.friendly).min(self.window * 1.5);
        if target > self.window {
            self.window += (target - self.window) / self.window;
        } else {
            self.window += 0.01 / self.window;
        }
    }

    fn on_acks_ended(&mut self, _now: Duration, _in_flight: u64, _app_limited: bool) {}

    fn on_lost(&mut self, now: Duration, sent_at: Duration, _bytes: u64, persistent: bool) {
        if sent_at < self.recovered_at {
            return;
        }
        self.recovered_at = now;
        self.epoch = None;
        self.largest = if self.window < self.largest {
            self.window * 0.85
        } else {
            self.window
        };
        self.window = (self.window * 0.7).max(2.0);
        self.threshold = self.window;
        if persistent {
            self.window = 2.0;
        }
    }

    fn window(&self) -> u64 {
        (self.window * MTU as f64) as u64 + MTU
    }

    fn is_paced(&self) -> bool {
        false
    }
}

impl Cubic {
    fn window_at_epoch(&self) -> f64 {
        if self.largest > self.threshold {
            self.threshold
        } else {
            self.origin
        }
    }
}

/// BBR version 1: start-up, drain, the eight-phase gain cycle and the minimum-RTT probe.
pub(crate) struct Bbr {
    delivered: u64,
    /// `(sent_at, delivered)` of packets on the path.
    sent: VecDeque<(Duration, u64, Duration)>,
    delivered_at: Duration,
    in_flight: u64,
    rates: VecDeque<(u64, f64)>,
    round: u64,
    round_ends: u64,
    min_rtt: Duration,
    min_rtt_at: Duration,
    mode: Mode,
    full: f64,
    full_rounds: u32,
    window: f64,
    probe_until: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Startup,
    Drain,
    Cycle(usize, Duration),
    ProbeRtt,
}

const BBR_HIGH: f64 = 2.885;
const BBR_CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];

impl Bbr {
    pub(crate) fn boxed() -> Box<dyn Algorithm> {
        Box::new(Self {
            delivered: 0,
            sent: VecDeque::new(),
            delivered_at: Duration::ZERO,
            in_flight: 0,
            rates: VecDeque::new(),
            round: 0,
            round_ends: 0,
            min_rtt: Duration::MAX,
            min_rtt_at: Duration::ZERO,
            mode: Mode::Startup,
            full: 0.0,
            full_rounds: 0,
            window: 10.0 * MTU as f64,
            probe_until: None,
        })
    }

    fn rate(&self) -> f64 {
        self.rates.front().map_or(0.0, |r| r.1)
    }

    fn product(&self) -> f64 {
        if self.min_rtt == Duration::MAX {
            return 10.0 * MTU as f64;
        }
        self.rate() * self.min_rtt.as_secs_f64()
    }
}

impl Algorithm for Bbr {
    fn on_sent(&mut self, now: Duration, bytes: u64) {
        if self.in_flight == 0 {
            self.delivered_at = now;
        }
        self.in_flight += bytes;
        self.sent
            .push_back((now, self.delivered, self.delivered_at));
    }

    fn on_acked(&mut self, now: Duration, sent_at: Duration, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        while self.sent.front().is_some_and(|s| s.0 < sent_at) {
            self.sent.pop_front();
        }
        let Some(&(at, delivered, delivered_at)) = self.sent.front() else {
            return;
        };
        if at != sent_at {
            return;
        }
        let rtt = now - sent_at;
        if rtt <= self.min_rtt {
            self.min_rtt = rtt;
            self.min_rtt_at = now;
        }
        if delivered >= self.round_ends {
            self.round_ends = self.delivered;
            self.round += 1;
            if self.mode == Mode::Startup {
                if self.rate() >= self.full * 1.25 {
                    self.full = self.rate();
                    self.full_rounds = 0;
                } else {
                    self.full_rounds += 1;
                    if self.full_rounds >= 3 {
                        self.mode = Mode::Drain;
                    }
                }
            }
        }
        let interval = (now - delivered_at).max(Duration::from_nanos(1));
        if interval >= self.min_rtt {
            let rate = (self.delivered - delivered) as f64 / interval.as_secs_f64();
            while self.rates.back().is_some_and(|r| r.1 <= rate) {
                self.rates.pop_back();
            }
            self.rates.push_back((self.round, rate));
            while self.rates.front().is_some_and(|r| r.0 + 10 < self.round) {
                self.rates.pop_front();
            }
        }
        self.window += bytes as f64;
    }

    fn on_acks_ended(&mut self, now: Duration, in_flight: u64, _app_limited: bool) {
        self.in_flight = in_flight;
        let product = self.product();
        match self.mode {
            Mode::Startup => {}
            Mode::Drain => {
                if in_flight as f64 <= product {
                    self.mode = Mode::Cycle(2, now);
                }
            }
            Mode::Cycle(phase, since) => {
                let done = match phase {
                    0 => now > since + self.min_rtt && in_flight as f64 >= 1.25 * product,
                    1 => now > since + self.min_rtt || in_flight as f64 <= product,
                    _ => now > since + self.min_rtt,
                };
                if done || now > since + self.min_rtt * 3 {
                    self.mode = Mode::Cycle((phase + 1) % 8, now);
                }
            }
            Mode::ProbeRtt => {
                if self.probe_until.is_none() && in_flight <= 5 * MTU {
                    self.probe_until = Some(now + Duration::from_millis(200).max(self.min_rtt));
                }
                if self.probe_until.is_some_and(|until| now >= until) {
                    self.min_rtt_at = now;
                    self.probe_until = None;
                    self.mode = Mode::Cycle(2, now);
                }
            }
        }
        if matches!(self.mode, Mode::Cycle(..)) && now > self.min_rtt_at + Duration::from_secs(10) {
            self.mode = Mode::ProbeRtt;
            self.min_rtt = Duration::MAX;
        }
        if self.mode == Mode::Startup {
            self.window = self.window.max(10.0 * MTU as f64);
            if self.full > 0.0 {
                self.window = self.window.min((BBR_HIGH * product).max(10.0 * MTU as f64));
            }
        } else {
            self.window = self.window.min(2.0 * product + 3.0 * MTU as f64);
        }
    }

    fn on_lost(&mut self, _now: Duration, _sent_at: Duration, bytes: u64, _persistent: bool) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    fn window(&self) -> u64 {
        let packets = MTU as f64;
        match self.mode {
            Mode::ProbeRtt => 5 * MTU,
            _ => self.window.max(4.0 * packets) as u64 + MTU,
        }
    }

    fn pacing(&self) -> Option<f64> {
        let gain = match self.mode {
            Mode::Startup => BBR_HIGH,
            Mode::Drain => 1.0 / BBR_HIGH,
            Mode::Cycle(phase, _) => BBR_CYCLE[phase],
            Mode::ProbeRtt => 1.0,
        };
        if self.rate() == 0.0 {
            return Some(BBR_HIGH * 10.0 * MTU as f64 / 0.1);
        }
        Some((gain * self.rate()).max(MTU as f64))
    }
}
