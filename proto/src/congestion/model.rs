//! The model of the path: how fast it delivers, its smallest round trip, and how far
//! acknowledgements run ahead when they come in bursts.

use std::time::Duration;

use super::delivery::{Delivery, Sample, bytes_in, rate_of};
use super::filter::{MinRtt, WindowedMax};

/// A round lasts one round trip, but not less than this: rounds of a LAN would hold too few
/// packets, and fewer than one late acknowledgement, to tell anything.
const ROUND_MIN: Duration = Duration::from_millis(10);

/// Rounds for which the largest delivery rate counts: one whole cycle with its probe.
const RATE_ROUNDS: u64 = 10;

/// Longest burst of acknowledgements that is allowed for: four times what QUIC lets a receiver
/// wait (RFC 9000, 18.2).
const AGGREGATION_MAX: Duration = Duration::from_millis(100);

/// The estimates, and the round at hand.
#[derive(Clone, Debug)]
pub(super) struct Model {
    delivery: Delivery,
    rate: WindowedMax,
    /// Rounds that told what the path carries: those in which the sender used all of its window.
    /// The rate ages by them.
    telling_rounds: u64,
    pub(super) min_rtt: MinRtt,
    latest_rtt: Option<Duration>,
    smoothed_rtt: Option<Duration>,
    aggregation: Aggregation,
    round: Round,
    lost: u64,
}

/// A round: from a departure until its acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    number: u64,
    started_at: Duration,
    /// The round ends when a packet is acknowledged that left after this much was delivered.
    ends_at_delivered: u64,
    delivered_before: u64,
    lost_before: u64,
    /// Most bytes that were declared lost at once.
    largest_loss: u64,
    /// Smallest and largest round trip in it.
    pub(super) rtt: Option<(Duration, Duration)>,
    pub(super) app_limited: bool,
    /// Bytes delivered, and bytes per second; set when the round has ended.
    pub(super) delivered: u64,
    pub(super) rate: u64,
    /// Bytes declared lost; set when the round has ended.
    pub(super) lost: u64,
}

impl Round {
    /// Whether most of what was lost was lost at once: such a burst has causes other than how much is sent.
    pub(super) fn lost_at_once(&self) -> bool {
        self.largest_loss > self.lost / 2
    }

    /// Bytes that got through in a round trip.
    pub(super) fn carried(&self) -> u64 {
        self.rtt.map_or(0, |(rtt, _)| bytes_in(self.rate, rtt))
    }
}

impl Model {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            delivery: Delivery::new(now),
            rate: WindowedMax::new(RATE_ROUNDS),
            telling_rounds: 0,
            min_rtt: MinRtt::new(),
            latest_rtt: None,
            smoothed_rtt: None,
            aggregation: Aggregation::new(now),
            round: Round::new(0, now, 0, 0),
            lost: 0,
        }
    }

    /// Largest delivery rate of the last rounds, bytes per second.
    pub(super) fn rate(&self) -> u64 {
        self.rate.get()
    }

    pub(super) fn smoothed_rtt(&self) -> Option<Duration> {
        self.smoothed_rtt
    }

    /// Round trip of the newest packet acknowledged.
    pub(super) fn latest_rtt(&self) -> Option<Duration> {
        self.latest_rtt
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivery.delivered()
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Bandwidth-delay product: bytes that the path holds without a queue.
    pub(super) fn product(&self) -> u64 {
        self.at_min_rtt(self.rate.get())
    }

    /// Bytes that `rate` delivers in the smallest round trip.
    pub(super) fn at_min_rtt(&self, rate: u64) -> u64 {
        bytes_in(rate, self.min_rtt.get().unwrap_or_default())
    }

    /// Bytes beyond the product that keep the path full when acknowledgements come in bursts.
    pub(super) fn aggregation(&self) -> u64 {
        let most = bytes_in(self.rate.get(), AGGREGATION_MAX);
        self.aggregation.excess.get().min(most)
    }

    pub(super) fn on_sent(&mut self, now: Duration, idle: bool) {
        self.delivery.on_sent(now, idle);
    }

    pub(super) fn on_acked(&mut self, now: Duration, sent_at: Duration, bytes: u64) {
        self.delivery.on_acked(now, sent_at, bytes);
        self.aggregation.on_acked(bytes);
    }

    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.lost = self.lost.saturating_add(bytes);
        self.round.largest_loss = self.round.largest_loss.max(bytes);
    }

    /// Bytes declared lost in the round at hand.
    pub(super) fn lost_in_round(&self) -> u64 {
        self.lost - self.round.lost_before
    }

    /// Whether most of that was lost at once: such a burst has causes other than how much is sent.
    pub(super) fn lost_at_once(&self) -> bool {
        self.round.largest_loss > self.lost_in_round() / 2
    }

    /// Takes in a batch of acknowledgements. `filled` says that the window has been used up since
    /// the round began. Returns the bytes acknowledged, and the round if it ended with them.
    pub(super) fn end_batch(
        &mut self,
        now: Duration,
        app_limited: bool,
        filled: bool,
    ) -> (u64, Option<Round>) {
        self.round.app_limited |= app_limited;
        let sample = self
            .delivery
            .end_batch(now, self.min_rtt.get(), app_limited);
        if let Some(sample) = &sample {
            self.take_in(now, sample);
        }
        let acked = self
            .aggregation
            .end_batch(now, self.rate.get(), self.round.number);
        let over = sample.is_some_and(|s| s.prior_delivered >= self.round.ends_at_delivered)
            && now.saturating_sub(self.round.started_at) >= ROUND_MIN;
        (acked, over.then(|| self.end_round(now, filled)))
    }

    fn take_in(&mut self, now: Duration, sample: &Sample) {
        let rtt = sample.rtt;
        self.latest_rtt = Some(rtt);
        self.min_rtt.insert(now, rtt);
        self.round.rtt = Some(match self.round.rtt {
            Some((min, max)) => (min.min(rtt), max.max(rtt)),
            None => (rtt, rtt),
        });
        self.smoothed_rtt = Some(self.smoothed_rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        if let Some(rate) = sample.rate
            && (!sample.app_limited || rate > self.rate.get())
        {
            self.rate.insert(self.telling_rounds, rate);
        }
    }

    fn end_round(&mut self, now: Duration, filled: bool) -> Round {
        let mut round = self.round;
        let delivered = self.delivery.delivered();
        round.lost = self.lost_in_round();
        round.delivered = delivered - round.delivered_before;
        round.rate = rate_of(round.delivered, now.saturating_sub(round.started_at));
        self.round = Round::new(round.number + 1, now, delivered, self.lost);
        if filled && !round.app_limited {
            self.telling_rounds += 1;
            self.rate.expire(self.telling_rounds);
        }
        round
    }

    /// Forgets the rate: the path is a new one.
    pub(super) fn restart(&mut self, now: Duration) {
        self.rate.clear();
        self.aggregation = Aggregation::new(now);
        self.round = Round::new(
            self.round.number + 1,
            now,
            self.delivery.delivered(),
            self.lost,
        );
    }
}

impl Round {
    fn new(number: u64, now: Duration, delivered: u64, lost: u64) -> Self {
        Self {
            number,
            started_at: now,
            ends_at_delivered: delivered,
            delivered_before: delivered,
            lost_before: lost,
            largest_loss: 0,
            rtt: None,
            app_limited: false,
            delivered: 0,
            rate: 0,
            lost: 0,
        }
    }
}

/// How far acknowledgements run ahead of the delivery rate.
#[derive(Clone, Debug)]
struct Aggregation {
    /// Start of the stretch over which acknowledgements are compared with the rate.
    since: Duration,
    acked: u64,
    /// Acknowledged in the batch at hand.
    batch: u64,
    excess: WindowedMax,
}

impl Aggregation {
    fn new(now: Duration) -> Self {
        Self {
            since: now,
            acked: 0,
            batch: 0,
            excess: WindowedMax::new(RATE_ROUNDS),
        }
    }

    fn on_acked(&mut self, bytes: u64) {
        self.batch = self.batch.saturating_add(bytes);
    }

    /// Returns the bytes acknowledged in the batch.
    fn end_batch(&mut self, now: Duration, rate: u64, round: u64) -> u64 {
        let batch = std::mem::take(&mut self.batch);
        let mut expected = bytes_in(rate, now.saturating_sub(self.since));
        if self.acked <= expected {
            self.since = now;
            self.acked = 0;
            expected = 0;
        }
        self.acked = self.acked.saturating_add(batch);
        self.excess
            .insert(round, self.acked.saturating_sub(expected));
        batch
    }
}
