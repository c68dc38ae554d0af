//! Windowed extremes: the largest rate of the last rounds, the smallest round trip of the last
//! seconds.

use std::collections::VecDeque;
use std::time::Duration;

/// Largest value among the last `span` rounds.
///
/// Holds at most one entry per round and only entries that can still become the maximum, so at
/// most `span + 1` of them.
#[derive(Clone, Debug)]
pub(super) struct WindowedMax {
    span: u64,
    /// `(round, value)`, rounds rising, values falling.
    entries: VecDeque<(u64, u64)>,
}

impl WindowedMax {
    pub(super) fn new(span: u64) -> Self {
        Self {
            span,
            entries: VecDeque::new(),
        }
    }

    pub(super) fn insert(&mut self, round: u64, value: u64) {
        while self.entries.back().is_some_and(|&(_, v)| v <= value) {
            self.entries.pop_back();
        }
        match self.entries.back() {
            // A larger value of the same round stands already.
            Some(&(r, _)) if r == round => {}
            _ => self.entries.push_back((round, value)),
        }
        self.expire(round);
    }

    /// Forgets what is older than `span` rounds, but never the last entry: an old estimate is
    /// better than none.
    pub(super) fn expire(&mut self, round: u64) {
        while self.entries.len() > 1
            && self
                .entries
                .front()
                .is_some_and(|&(r, _)| r + self.span <= round)
        {
            self.entries.pop_front();
        }
    }

    pub(super) fn get(&self) -> u64 {
        self.entries.front().map_or(0, |&(_, v)| v)
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

/// Smallest round trip seen, and when it was last confirmed.
#[derive(Clone, Debug)]
pub(super) struct MinRtt {
    value: Option<Duration>,
    confirmed_at: Duration,
}

impl MinRtt {
    pub(super) fn new() -> Self {
        Self {
            value: None,
            confirmed_at: Duration::ZERO,
        }
    }

    pub(super) fn get(&self) -> Option<Duration> {
        self.value
    }

    /// A sample within 1/64 of the minimum confirms it: a queue of that size costs nothing, and
    /// without the tolerance every path would need emptying again and again.
    pub(super) fn insert(&mut self, now: Duration, rtt: Duration) {
        match self.value {
            Some(min) if rtt > min => {
                if rtt <= min + min / 64 {
                    self.confirmed_at = now;
                }
            }
            _ => {
                self.value = Some(rtt);
                self.confirmed_at = now;
            }
        }
    }

    /// Whether `span` has passed without a sample near the minimum.
    pub(super) fn is_stale(&self, now: Duration, span: Duration) -> bool {
        self.value.is_some() && now.saturating_sub(self.confirmed_at) > span
    }

    /// Takes `rtt`, measured with the path as empty as this flow can make it, for the minimum.
    pub(super) fn replace(&mut self, now: Duration, rtt: Duration) {
        self.value = Some(rtt);
        self.confirmed_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_forgets_old_rounds_but_never_everything() {
        let mut max = WindowedMax::new(3);
        assert_eq!(max.get(), 0);
        max.insert(1, 10);
        max.insert(1, 7);
        max.insert(2, 5);
        assert_eq!(max.get(), 10);
        max.insert(4, 1);
        assert_eq!(max.get(), 5);
        max.expire(100);
        assert_eq!(max.get(), 1);
    }

    #[test]
    fn max_is_bounded() {
        let mut max = WindowedMax::new(10);
        for round in 0..1000 {
            for value in (0..50).rev() {
                max.insert(round, 5000 - round + value);
            }
            assert!(max.entries.len() <= 11);
        }
    }

    #[test]
    fn min_rtt_is_confirmed_by_near_samples_and_goes_stale() {
        let ms = Duration::from_millis;
        let mut min = MinRtt::new();
        assert!(!min.is_stale(ms(20_000), ms(10_000)));
        min.insert(ms(1), ms(100));
        min.insert(ms(5_000), ms(101));
        assert!(!min.is_stale(ms(14_000), ms(10_000)));
        min.insert(ms(14_000), ms(150));
        assert!(min.is_stale(ms(15_001), ms(10_000)));
        assert_eq!(min.get(), Some(ms(100)));
        min.replace(ms(15_001), ms(150));
        assert_eq!(min.get(), Some(ms(150)));
    }
}
