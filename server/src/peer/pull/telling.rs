//! When other sites hear how far a pull is, so that they can have from here what has come.

use std::time::Duration;

/// They hear of each eighth of what was missing: 8 entries of gossip for a pull, of some 300 bytes at most.
const STEPS: u64 = 8;
/// But not more often than this, so that a short pull tells nothing but its end.
const INTERVAL: Duration = Duration::from_secs(5);

/// What was told of a pull.
pub(super) struct Telling {
    step: u64,
    told_bytes: u64,
    told_at: Duration,
}

impl Telling {
    /// Of a pull that begins, to which so many bytes are missing.
    pub(super) fn new(missing_bytes: u64) -> Self {
        Self {
            step: missing_bytes.div_ceil(STEPS),
            told_bytes: 0,
            told_at: Duration::ZERO,
        }
    }

    /// Whether it is to be told that so many bytes have come; if so, that counts as done.
    pub(super) fn is_due(&mut self, arrived_bytes: u64, now: Duration) -> bool {
        let due = arrived_bytes >= self.told_bytes + self.step && now >= self.told_at + INTERVAL;
        if due {
            (self.told_bytes, self.told_at) = (arrived_bytes, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_tells_eight_times_at_most_and_not_often() {
        let mut slow = Telling::new(800);
        let told = (0..=800).filter(|&s| slow.is_due(s, Duration::from_secs(s)));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [100, 200, 300, 400, 500, 600, 700, 800]
        );
        let mut fast = Telling::new(800);
        let told = (0..=12).filter(|&s| fast.is_due(s * 66, Duration::from_secs(s)));
        assert_eq!(told.collect::<Vec<_>>(), [5, 10]);
    }
}
