//! One direction of a link: rate, propagation, a droptail queue, and its faults.

use std::collections::VecDeque;
use std::time::Duration;

use super::Random;

/// IP and UDP headers that the link carries beside a datagram.
pub(crate) const HEADER: u64 = 28;

/// How long an extra delay lasts.
const JITTER_TIME: Duration = Duration::from_millis(10);

/// What a link does to packets. Build one with [`Link::new`] and the setters.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Bits per second from a time on, times rising; zero is an outage.
    pub(crate) rates: Vec<(Duration, u64)>,
    /// One way.
    pub(crate) propagation: Duration,
    /// Bytes that wait for the link; more are dropped.
    pub(crate) queue: u64,
    /// Share of packets lost at random.
    pub(crate) loss: f64,
    /// `(start, end)`: every packet that enters is lost.
    pub(crate) bursts: Vec<(Duration, Duration)>,
    /// Largest extra delay; drawn anew every 10 ms, order is kept.
    pub(crate) jitter: Duration,
    /// Share of packets that arrive late by the given time, behind their followers.
    pub(crate) reordering: (f64, Duration),
    /// Token bucket in front of the link: bits per second, bucket in bytes.
    pub(crate) policer: Option<(u64, u64)>,
}

impl Link {
    /// A clean link with a queue of one bandwidth-delay product for a round trip of `rtt`, and not
    /// less than 64 kB.
    pub(crate) fn new(bits_per_second: u64, rtt: Duration) -> Self {
        let product = bits_per_second as f64 / 8.0 * rtt.as_secs_f64();
        Self {
            rates: vec![(Duration::ZERO, bits_per_second)],
            propagation: rtt / 2,
            queue: (product as u64).max(64 << 10),
            loss: 0.0,
            bursts: Vec::new(),
            jitter: Duration::ZERO,
            reordering: (0.0, Duration::ZERO),
            policer: None,
        }
    }

    /// The way back: the same propagation, never the bottleneck.
    pub(crate) fn back(&self) -> Self {
        let mut back = Self::new(10_000_000_000, self.propagation * 2);
        back.queue = 64 << 20;
        back.rates = vec![(Duration::ZERO, 10_000_000_000)];
        for (i, &(at, rate)) in self.rates.iter().enumerate() {
            if rate == 0 {
                let end = self.rates.get(i + 1).map_or(Duration::MAX, |next| next.0);
                back.bursts.push((at, end));
            }
        }
        back
    }

    pub(crate) fn loss(mut self, loss: f64) -> Self {
        self.loss = loss;
        self
    }

    pub(crate) fn queue(mut self, bytes: u64) -> Self {
        self.queue = bytes;
        self
    }

    fn rate_at(&self, at: Duration) -> u64 {
        let after = self.rates.partition_point(|r| r.0 <= at);
        self.rates[after.max(1) - 1].1
    }
}

/// A link at work.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    link: Link,
    random: Random,
    /// Packets that wait or are being sent: when their last bit leaves, and their size.
    queue: VecDeque<(Duration, u64)>,
    queued: u64,
    last_arrival: Duration,
    jitter: Duration,
    jitter_until: Duration,
    tokens: f64,
    tokens_at: Duration,
    pub(crate) dropped: u64,
}

impl Path {
    pub(crate) fn new(link: Link, seed: u64) -> Self {
        Self {
            tokens: link.policer.map_or(0.0, |p| p.1 as f64),
            link,
            random: Random::new(seed),
            queue: VecDeque::new(),
            queued: 0,
            last_arrival: Duration::ZERO,
            jitter: Duration::ZERO,
            jitter_until: Duration::ZERO,
            tokens_at: Duration::ZERO,
            dropped: 0,
        }
    }

    /// A datagram of `bytes` enters at `now`, not before any earlier one. When it arrives, or
    /// `None` if it is lost.
    pub(crate) fn send(&mut self, now: Duration, bytes: u64) -> Option<Duration> {
        let arrival = self.pass(now, bytes);
        self.dropped += u64::from(arrival.is_none());
        arrival
    }

    fn pass(&mut self, now: Duration, bytes: u64) -> Option<Duration> {
        let size = bytes + HEADER;
        while self.queue.front().is_some_and(|&(leaves, _)| leaves <= now) {
            self.queued -= self.queue.pop_front().unwrap().1;
        }
        if !self.admit(now, size) || self.queued + size > self.link.queue {
            return None;
        }
        let start = self
            .queue
            .back()
            .map_or(now, |&(leaves, _)| leaves.max(now));
        let rate = self.link.rate_at(start);
        if rate == 0 {
            return None;
        }
        let leaves = start + Duration::from_nanos(size * 8 * 1_000_000_000 / rate);
        self.queue.push_back((leaves, size));
        self.queued += size;
        if self
            .link
            .bursts
            .iter()
            .any(|&(from, to)| from <= now && now < to)
            || self.random.unit() < self.link.loss
        {
            return None;
        }
        let mut arrival = leaves + self.link.propagation;
        if !self.link.jitter.is_zero() {
            if leaves >= self.jitter_until {
                self.jitter_until = leaves + JITTER_TIME;
                self.jitter = self.link.jitter.mul_f64(self.random.unit());
            }
            arrival += self.jitter;
        }
        let (share, late) = self.link.reordering;
        if share > 0.0 && self.random.unit() < share {
            // Late in its turn: jitter that falls must not let it overtake those before it.
            return Some(arrival.max(self.last_arrival) + late);
        }
        self.last_arrival = arrival.max(self.last_arrival);
        Some(self.last_arrival)
    }

    fn admit(&mut self, now: Duration, size: u64) -> bool {
        let Some((rate, bucket)) = self.link.policer else {
            return true;
        };
        let elapsed = now.saturating_sub(self.tokens_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * rate as f64 / 8.0).min(bucket as f64);
        self.tokens_at = now;
        if self.tokens < size as f64 {
            return false;
        }
        self.tokens -= size as f64;
        true
    }
}
