//! Delivery-rate samples: how fast the path delivered while one packet was on it.
//!
//! The method is that of the delivery-rate estimation of draft-ietf-ccwg-bbr: each departure
//! remembers how much had been delivered before it; when it is acknowledged, the bytes delivered
//! since then, divided by the longer of the time taken to send them and the time taken to
//! acknowledge them, is a rate that neither bursts of the sender nor bursts of acknowledgements
//! can inflate.

use std::collections::VecDeque;
use std::time::Duration;

/// Departures remembered at a time. A flow of 1 Gbit/s over 300 ms has 26,000 packets on the path,
/// sent in bursts of ten or more that share one record.
const DEPARTURES_MAX: usize = 8192;

/// Round trips below this are within the grain of clocks and timers: a receive time may even be
/// older than the send time it is compared with.
const RTT_MIN: Duration = Duration::from_micros(100);

/// Round trips beyond this are steps of the clock.
const RTT_MAX: Duration = Duration::from_secs(60);

/// State of the flow when a burst of packets left.
#[derive(Clone, Copy, Debug)]
struct Departure {
    sent_at: Duration,
    delivered: u64,
    delivered_at: Duration,
    /// When the packet left whose acknowledgement was the newest at that time.
    first_sent_at: Duration,
    app_limited: bool,
}

/// What one acknowledgement tells about the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// Bytes per second; `None` if the interval was too short to tell.
    pub(super) rate: Option<u64>,
    /// Time from the departure of the newest packet acknowledged to its acknowledgement.
    pub(super) rtt: Duration,
    /// Bytes delivered in all when the packet left.
    pub(super) prior_delivered: u64,
    /// The sender had nothing more to send at that time, so the rate may be below the path's.
    pub(super) app_limited: bool,
}

/// Follows what was sent and delivered.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    departures: VecDeque<Departure>,
    delivered: u64,
    delivered_at: Duration,
    first_sent_at: Duration,
    app_limited: bool,
    /// Departure of the newest packet acknowledged in the batch at hand.
    newest: Option<Duration>,
}

impl Delivery {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            departures: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            first_sent_at: now,
            app_limited: false,
            newest: None,
        }
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// `idle`: nothing was on the path before this packet, so time spent idle is not counted.
    pub(super) fn on_sent(&mut self, now: Duration, idle: bool) {
        if idle {
            self.delivered_at = now;
            self.first_sent_at = now;
        }
        if self.departures.back().is_some_and(|d| d.sent_at >= now) {
            return;
        }
        if self.departures.len() == DEPARTURES_MAX {
            // Its packets then sample over a longer interval, from an older record.
            self.departures.remove(DEPARTURES_MAX / 2);
        }
        self.departures.push_back(Departure {
            sent_at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            app_limited: self.app_limited,
        });
    }

    pub(super) fn on_acked(&mut self, now: Duration, sent_at: Duration, bytes: u64) {
        self.delivered = self.delivered.saturating_add(bytes);
        self.delivered_at = now;
        self.newest = Some(self.newest.map_or(sent_at, |newest| newest.max(sent_at)));
    }

    /// Ends a batch of acknowledgements. `None` if it held nothing that is still remembered.
    pub(super) fn end_batch(
        &mut self,
        now: Duration,
        min_rtt: Option<Duration>,
        app_limited: bool,
    ) -> Option<Sample> {
        self.app_limited = app_limited;
        let sent_at = self.newest.take()?;
        let after = self.departures.partition_point(|d| d.sent_at <= sent_at);
        let departure = *self.departures.get(after.checked_sub(1)?)?;
        self.departures.drain(..after - 1);
        self.first_sent_at = self.first_sent_at.max(departure.sent_at);

        let send_elapsed = departure.sent_at.saturating_sub(departure.first_sent_at);
        let ack_elapsed = now.saturating_sub(departure.delivered_at);
        let interval = send_elapsed.max(ack_elapsed);
        // An interval shorter than a round trip comes from compressed acknowledgements.
        let credible = !interval.is_zero() && min_rtt.is_none_or(|min| interval >= min);
        Some(Sample {
            rate: credible.then(|| rate_of(self.delivered - departure.delivered, interval)),
            rtt: now.saturating_sub(sent_at).clamp(RTT_MIN, RTT_MAX),
            prior_delivered: departure.delivered,
            app_limited: departure.app_limited,
        })
    }
}

/// Bytes per second, saturating; an empty interval counts as a nanosecond.
pub(super) fn rate_of(bytes: u64, interval: Duration) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / interval.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Bytes that `rate` (bytes per second) moves in `time`, saturating.
pub(super) fn bytes_in(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate).saturating_mul(time.as_nanos()) / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Time in which `rate` (bytes per second) moves `bytes`, saturating; a rate of zero counts as one.
pub(super) fn time_of(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn measures_a_steady_rate() {
        let mut delivery = Delivery::new(ms(0));
        // 1000 bytes each millisecond, acknowledged 50 ms later: 1 MB/s.
        let mut last = None;
        for t in 0..300 {
            delivery.on_sent(ms(t), t == 0);
            if t >= 50 {
                delivery.on_acked(ms(t), ms(t - 50), 1000);
                last = delivery.end_batch(ms(t), Some(ms(50)), false);
            }
        }
        let sample = last.unwrap();
        assert_eq!(sample.rtt, ms(50));
        assert_eq!(sample.rate, Some(1_000_000));
    }

    #[test]
    fn compressed_acknowledgements_do_not_inflate() {
        let mut delivery = Delivery::new(ms(0));
        let mut largest = 0;
        // As above, but acknowledgements arrive every 40 ms for all that is due.
        let mut acked = 0;
        for t in 0..1000 {
            delivery.on_sent(ms(t), t == 0);
            if t >= 50 && t % 40 == 0 {
                while acked + 50 <= t {
                    delivery.on_acked(ms(t), ms(acked), 1000);
                    acked += 1;
                }
                let sample = delivery.end_batch(ms(t), Some(ms(50)), false).unwrap();
                largest = largest.max(sample.rate.unwrap_or(0));
            }
        }
        assert!((900_000..=1_000_000).contains(&largest), "{largest}");
    }

    #[test]
    fn is_bounded_and_survives_strange_times() {
        let mut delivery = Delivery::new(ms(1000));
        for t in 0..20_000 {
            delivery.on_sent(ms(t), false);
        }
        assert!(delivery.departures.len() <= DEPARTURES_MAX);
        // Acknowledged at the instant of departure, and from the future.
        delivery.on_acked(ms(0), ms(0), u64::MAX);
        let sample = delivery.end_batch(ms(0), None, false).unwrap();
        assert_eq!(sample.rate, None);
        delivery.on_acked(ms(20_000), ms(20_000), u64::MAX);
        let sample = delivery.end_batch(ms(20_000), Some(ms(0)), false).unwrap();
        assert_eq!(sample.rtt, RTT_MIN);
        delivery.on_acked(ms(1), ms(30_000), 1);
        let sample = delivery.end_batch(ms(1), None, false);
        assert!(sample.is_none_or(|s| s.rtt == RTT_MIN));
        assert!(delivery.end_batch(ms(1), None, false).is_none());
    }
}
