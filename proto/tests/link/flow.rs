//! A transport without bytes: numbers packets, paces them, detects losses as RFC 9002 does, and
//! tells one algorithm. Pacing and the order of events are those of quinn.

use std::collections::VecDeque;
use std::time::Duration;

use vitrail_proto::congestion::{Class, Controller};

/// Datagram size, as quinn sends them after MTU discovery.
pub(crate) const MTU: u64 = 1452;
/// Of that, payload of streams.
pub(crate) const PAYLOAD: u64 = 1418;

const INITIAL_RTT: Duration = Duration::from_millis(333);
const ACK_DELAY_MAX: Duration = Duration::from_millis(25);
const GRANULARITY: Duration = Duration::from_millis(1);
const REORDER_PACKETS: u64 = 3;

/// A congestion control algorithm under test.
pub(crate) trait Algorithm {
    fn on_sent(&mut self, now: Duration, bytes: u64);
    fn on_acked(&mut self, now: Duration, sent_at: Duration, bytes: u64);
    fn on_acks_ended(&mut self, now: Duration, in_flight: u64, app_limited: bool);
    fn on_lost(&mut self, now: Duration, sent_at: Duration, bytes: u64, persistent: bool);
    fn window(&self) -> u64;
    /// Bytes per second; `None` leaves pacing to the transport.
    fn pacing(&self) -> Option<f64> {
        None
    }
    /// Whether packets are spread over time at all.
    fn is_paced(&self) -> bool {
        true
    }
    fn controller(&mut self) -> Option<&mut Controller> {
        None
    }
}

impl Algorithm for Controller {
    fn on_sent(&mut self, now: Duration, bytes: u64) {
        Controller::on_sent(self, now, bytes);
    }
    fn on_acked(&mut self, now: Duration, sent_at: Duration, bytes: u64) {
        Controller::on_acked(self, now, sent_at, bytes);
    }
    fn on_acks_ended(&mut self, now: Duration, in_flight: u64, app_limited: bool) {
        Controller::on_acks_ended(self, now, in_flight, app_limited);
    }
    fn on_lost(&mut self, now: Duration, _sent_at: Duration, bytes: u64, persistent: bool) {
        Controller::on_lost(self, now, bytes, persistent);
    }
    fn window(&self) -> u64 {
        Controller::window(self)
    }
    fn controller(&mut self) -> Option<&mut Controller> {
        Some(self)
    }
}

pub(crate) fn interactive(seed: u64) -> Box<dyn Algorithm> {
    Box::new(Controller::new(
        Duration::ZERO,
        MTU as u16,
        Class::Interactive,
        seed,
    ))
}

pub(crate) fn background(seed: u64) -> Box<dyn Algorithm> {
    Box::new(Controller::new(
        Duration::ZERO,
        MTU as u16,
        Class::Background,
        seed,
    ))
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Duration,
    resolved: bool,
}

/// What a flow did, in bins of time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Bytes of payload acknowledged, per [`Record::BIN`].
    pub(crate) acked: Vec<u64>,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) rtts: Vec<(Duration, Duration)>,
    pub(crate) window_max: u64,
    /// When this much payload had been acknowledged.
    pub(crate) reached: Vec<(u64, Duration)>,
}

impl Record {
    pub(crate) const BIN: Duration = Duration::from_millis(100);

    fn on_acked(&mut self, now: Duration, bytes: u64) {
        let bin = (now.as_nanos() / Self::BIN.as_nanos()) as usize;
        if self.acked.len() <= bin {
            self.acked.resize(bin + 1, 0);
        }
        self.acked[bin] += bytes;
    }

    /// Bits of payload per second between two times.
    pub(crate) fn goodput(&self, from: Duration, to: Duration) -> f64 {
        let bin = |t: Duration| (t.as_nanos() / Self::BIN.as_nanos()) as usize;
        let bytes: u64 = self.acked.iter().take(bin(to)).skip(bin(from)).sum();
        bytes as f64 * 8.0 / (to - from).as_secs_f64()
    }

    pub(crate) fn rtt_quantile(&self, quantile: f64, from: Duration) -> Duration {
        let mut rtts: Vec<_> = self
            .rtts
            .iter()
            .filter(|r| r.0 >= from)
            .map(|r| r.1)
            .collect();
        rtts.sort();
        rtts[((rtts.len() - 1) as f64 * quantile) as usize]
    }

    /// Share of the bytes sent that were declared lost, and so sent twice.
    pub(crate) fn sent_twice(&self) -> f64 {
        self.lost as f64 / self.sent as f64
    }

    /// When `bytes` of payload had been acknowledged.
    pub(crate) fn time_of(&self, bytes: u64) -> Option<Duration> {
        let mut sum = 0;
        for (bin, acked) in self.acked.iter().enumerate() {
            if sum + acked >= bytes {
                let within = (bytes - sum) as f64 / *acked as f64;
                return Some(Self::BIN * bin as u32 + Self::BIN.mul_f64(within));
            }
            sum += acked;
        }
        None
    }
}

/// One sender and its receiver.
pub(crate) struct Flow {
    pub(crate) algorithm: Box<dyn Algorithm>,
    pub(crate) record: Record,
    pub(crate) start: Duration,
    pub(crate) stop: Duration,
    /// Payload handed over per second; `None` is always more than fits.
    supply: Option<f64>,
    supplied: f64,
    supplied_at: Duration,
    app_limited: bool,

    next_number: u64,
    first: u64,
    sent: VecDeque<Sent>,
    in_flight: u64,
    largest_acked: Option<u64>,
    srtt: Option<Duration>,
    rtt_var: Duration,
    latest_rtt: Duration,
    min_rtt: Duration,
    pto_count: u32,
    last_sent_at: Duration,
    first_rtt_at: Option<Duration>,
    probes: u32,
    tokens: f64,
    tokens_at: Duration,

    // The receiver.
    unacked: Vec<u64>,
    pub(crate) ack_due: Option<Duration>,
}

impl Flow {
    pub(crate) fn new(algorithm: Box<dyn Algorithm>, start: Duration, stop: Duration) -> Self {
        Self {
            algorithm,
            record: Record::default(),
            start,
            stop,
            supply: None,
            supplied: 0.0,
            supplied_at: start,
            app_limited: false,
            next_number: 0,
            first: 0,
            sent: VecDeque::new(),
            in_flight: 0,
            largest_acked: None,
            srtt: None,
            rtt_var: INITIAL_RTT / 2,
            latest_rtt: INITIAL_RTT,
            min_rtt: INITIAL_RTT,
            pto_count: 0,
            last_sent_at: start,
            first_rtt_at: None,
            probes: 0,
            tokens: 10.0 * MTU as f64,
            tokens_at: start,
            unacked: Vec::new(),
            ack_due: None,
        }
    }

    /// From `now` on, the application hands over `supply` bytes per second, or all that fits.
    pub(crate) fn supply_from(&mut self, now: Duration, supply: Option<f64>) {
        if self.supply != supply {
            self.supply = supply;
            self.supplied = 0.0;
            self.supplied_at = now;
        }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    fn rtt(&self) -> Duration {
        self.srtt.unwrap_or(INITIAL_RTT)
    }

    /// The next packet's number if one may leave now, or when to ask again.
    pub(crate) fn poll_send(&mut self, now: Duration) -> Result<u64, Option<Duration>> {
        if now < self.start {
            return Err(Some(self.start));
        }
        if now >= self.stop {
            return Err(None);
        }
        if self.probes > 0 {
            self.probes -= 1;
            return Ok(self.transmit(now));
        }
        if let Some(supply) = self.supply {
            self.supplied += (now - self.supplied_at).as_secs_f64() * supply;
            self.supplied_at = now;
            if self.supplied < PAYLOAD as f64 {
                self.app_limited = true;
                let wait = (PAYLOAD as f64 - self.supplied) / supply;
                return Err(Some(
                    now + Duration::from_secs_f64(wait) + Duration::from_nanos(1),
                ));
            }
        }
        self.app_limited = false;
        let window = self.algorithm.window();
        if self.in_flight + MTU >= window {
            return Err(None);
        }
        if let Some(wait) = self.pace(now, window) {
            return Err(Some(now + wait));
        }
        if self.supply.is_some() {
            self.supplied -= PAYLOAD as f64;
        }
        Ok(self.transmit(now))
    }

    fn transmit(&mut self, now: Duration) -> u64 {
        self.algorithm.on_sent(now, MTU);
        self.tokens -= MTU as f64;
        self.in_flight += MTU;
        self.record.sent += MTU;
        self.sent.push_back(Sent {
            at: now,
            resolved: false,
        });
        self.last_sent_at = now;
        self.next_number += 1;
        self.next_number - 1
    }

    /// quinn's token bucket: bursts of two milliseconds, refilled at 1.25 windows per round trip.
    fn pace(&mut self, now: Duration, window: u64) -> Option<Duration> {
        if !self.algorithm.is_paced() {
            return None;
        }
        let rtt = self.rtt().as_secs_f64();
        let mtu = MTU as f64;
        let (rate, capacity) = match self.algorithm.pacing() {
            Some(rate) => (rate, (rate * 0.001).clamp(2.0 * mtu, 44.0 * mtu)),
            None => (
                1.25 * window as f64 / rtt,
                (window as f64 * 0.002 / rtt).clamp(10.0 * mtu, 256.0 * mtu),
            ),
        };
        self.tokens = self.tokens.min(capacity);
        if self.tokens >= mtu {
            return None;
        }
        self.tokens += (now - self.tokens_at).as_secs_f64() * rate;
        self.tokens = self.tokens.min(capacity);
        self.tokens_at = now;
        if self.tokens >= mtu {
            return None;
        }
        let wait = (capacity - self.tokens) / rate;
        Some(Duration::from_secs_f64(wait.min(10.0)) + Duration::from_nanos(1))
    }

    /// The receiver got a packet. Whether it acknowledges at once.
    pub(crate) fn on_arrival(&mut self, now: Duration, number: u64, every: usize) -> bool {
        let in_order = self.unacked.last().is_none_or(|&last| number == last + 1);
        self.unacked.push(number);
        if self.unacked.len() >= every || !in_order {
            return true;
        }
        self.ack_due.get_or_insert(now + ACK_DELAY_MAX);
        false
    }

    /// The numbers that the next acknowledgement carries; lost ones are carried again.
    pub(crate) fn take_ack(&mut self) -> Vec<u64> {
        self.ack_due = None;
        std::mem::take(&mut self.unacked)
    }

    pub(crate) fn ack_was_lost(&mut self, numbers: Vec<u64>) {
        let later = std::mem::replace(&mut self.unacked, numbers);
        self.unacked.extend(later);
    }

    pub(crate) fn on_ack(&mut self, now: Duration, numbers: &[u64]) {
        let mut newest = None;
        for &number in numbers {
            let Some(index) = number.checked_sub(self.first) else {
                continue;
            };
            let sent = &mut self.sent[index as usize];
            if std::mem::replace(&mut sent.resolved, true) {
                continue;
            }
            self.in_flight -= MTU;
            newest = newest.max(Some((number, sent.at)));
            self.algorithm.on_acked(now, sent.at, MTU);
            self.record.on_acked(now, PAYLOAD);
        }
        let Some((number, sent_at)) = newest else {
            return;
        };
        self.algorithm
            .on_acks_ended(now, self.in_flight, self.app_limited);
        self.record.window_max = self.record.window_max.max(self.algorithm.window());
        if self.largest_acked.is_none_or(|largest| number > largest) {
            self.largest_acked = Some(number);
            self.on_rtt(now, now - sent_at);
        }
        self.pto_count = 0;
        self.detect_losses(now, true);
    }

    fn on_rtt(&mut self, now: Duration, rtt: Duration) {
        self.record.rtts.push((now, rtt));
        self.latest_rtt = rtt;
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rtt_var = rtt / 2;
                self.min_rtt = rtt;
                self.first_rtt_at = Some(now);
            }
            Some(srtt) => {
                self.min_rtt = self.min_rtt.min(rtt);
                self.rtt_var = (self.rtt_var * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
    }

    fn detect_losses(&mut self, now: Duration, due_to_ack: bool) {
        let Some(largest) = self.largest_acked else {
            return;
        };
        let delay = self
            .rtt()
            .max(self.latest_rtt)
            .mul_f64(1.125)
            .max(GRANULARITY);
        let (mut lost, mut newest_lost) = (0, Duration::ZERO);
        let mut oldest_lost = None;
        let mut persistent = false;
        let mut number = self.first;
        while number < largest {
            let sent = &mut self.sent[(number - self.first) as usize];
            if sent.resolved {
                oldest_lost = None;
            } else if number + REORDER_PACKETS <= largest || now >= sent.at + delay {
                sent.resolved = true;
                lost += MTU;
                newest_lost = sent.at;
                if self.first_rtt_at.is_some_and(|at| sent.at > at) {
                    let oldest = *oldest_lost.get_or_insert(sent.at);
                    persistent |= due_to_ack && sent.at - oldest > self.pto() * 3;
                }
            }
            number += 1;
        }
        while self.sent.front().is_some_and(|sent| sent.resolved) {
            self.sent.pop_front();
            self.first += 1;
        }
        if lost > 0 {
            self.in_flight -= lost;
            self.record.lost += lost;
            self.algorithm.on_lost(now, newest_lost, lost, persistent);
        }
    }

    fn pto(&self) -> Duration {
        self.rtt() + (self.rtt_var * 4).max(GRANULARITY) + ACK_DELAY_MAX
    }

    /// When the sender must be woken for losses.
    pub(crate) fn loss_timer(&self) -> Option<Duration> {
        if self.in_flight == 0 {
            return None;
        }
        let delay = self
            .rtt()
            .max(self.latest_rtt)
            .mul_f64(1.125)
            .max(GRANULARITY);
        let early = self.largest_acked.and_then(|largest| {
            let before = (largest + 1).saturating_sub(self.first) as usize;
            let suspects = self.sent.iter().take(before);
            suspects.filter(|s| !s.resolved).map(|s| s.at + delay).min()
        });
        Some(early.unwrap_or(self.last_sent_at + self.pto() * (1 << self.pto_count.min(16))))
    }

    pub(crate) fn on_loss_timer(&mut self, now: Duration) {
        let before = self.in_flight;
        self.detect_losses(now, false);
        if self.in_flight == before && before > 0 {
            self.pto_count += 1;
            self.probes = 2;
        }
    }
}
