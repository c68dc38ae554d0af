//! When other sites hear how far a pull is, so that they can have from here what has come.

use std::time::Duration;

/// They hear of each eighth of what was missing: 8 entries of gossip for a pull, of some 300 bytes at most.
const STEPS: u64 = 8;
/// But not more often than this, so that a short pull tells nothing but its end.
const INTERVAL: Duration = Duration::from_secs(5);

/// A pull of so much tells that it has begun: pullers of the same then find each other at once. 16 MiB.
const BEGIN_LEN: u64 = 16 * 1024 * 1024;

/// What was told of a pull.
pub(super) struct Telling {
    /// It is to be told that the pull has begun.
    begins: bool,
    step: u64,
    told_bytes: u64,
    told_at: Duration,
}

impl Telling {
    /// Of a pull that begins, to which so many bytes are missing.
    pub(super) fn new(missing_bytes: u64) -> Self {
        Self {
            begins: missing_bytes >= BEGIN_LEN,
            step: missing_bytes.div_ceil(STEPS),
            told_bytes: 0,
            told_at: Duration::ZERO,
        }
    }

    /// Whether it is to be told that so many bytes have come; if so, that counts as done. Nobody hears of the beginning
    /// of a pull that is not of the `whole` image.
    pub(super) fn is_due(&mut self, arrived_bytes: u64, whole: bool, now: Duration) -> bool {
        if whole && std::mem::take(&mut self.begins) {
            return true;
        }
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
        let told = (0..=800).filter(|&s| slow.is_due(s, true, Duration::from_secs(s)));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [100, 200, 300, 400, 500, 600, 700, 800]
        );
        let mut fast = Telling::new(800);
        let told = (0..=12).filter(|&s| fast.is_due(s * 66, true, Duration::from_secs(s)));
        assert_eq!(told.collect::<Vec<_>>(), [5, 10]);
    }

    #[test]
    fn a_large_pull_tells_that_it_begins_once_it_is_of_the_whole_image() {
        let mut pull = Telling::new(BEGIN_LEN);
        assert!(!pull.is_due(0, false, Duration::ZERO));
        assert!(pull.is_due(0, true, Duration::from_secs(1)));
        assert!(!pull.is_due(0, true, Duration::from_secs(2)));
        assert!(!Telling::new(BEGIN_LEN - 1).is_due(0, true, Duration::ZERO));
    }
}
