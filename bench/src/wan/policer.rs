//! A token bucket that drops what exceeds its rate, as access providers have it.

use std::time::Duration;

use super::network::PolicerConfig;

/// Lets a packet through if the bucket holds as many bytes, and takes them out.
#[derive(Debug)]
pub(super) struct Policer {
    config: PolicerConfig,
    /// Bytes in the bucket, times the bits and nanoseconds of a second: no rounding adds up.
    level: u128,
    filled_at: Duration,
}

/// Levels per byte.
const SCALE: u128 = 8 * 1_000_000_000;

impl Policer {
    /// A full bucket.
    pub(super) fn new(config: PolicerConfig) -> Self {
        Self {
            config,
            level: u128::from(config.bucket_bytes) * SCALE,
            filled_at: Duration::ZERO,
        }
    }

    /// Whether a packet of `len` bytes passes at `now`.
    pub(super) fn passes(&mut self, now: Duration, len: usize) -> bool {
        let since = now.saturating_sub(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        let filled = since.as_nanos() * u128::from(self.config.rate.as_bits_per_sec());
        let full = u128::from(self.config.bucket_bytes) * SCALE;
        self.level = (self.level + filled).min(full);
        let cost = len as u128 * SCALE;
        let passes = self.level >= cost;
        if passes {
            self.level -= cost;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that pass in 10 s of packets of 1,000 bytes, one each millisecond.
    fn passed(rate: &str, bucket_bytes: u64) -> u64 {
        let mut policer = Policer::new(PolicerConfig {
            rate: rate.parse().unwrap(),
            bucket_bytes,
        });
        let times = (0..10_000).map(Duration::from_millis);
        times.filter(|&at| policer.passes(at, 1000)).count() as u64 * 1000
    }

    #[test]
    fn the_rate_passes_and_the_bucket_once() {
        // 8 Mbit/s are offered.
        assert_eq!(passed("8Mbit/s", 2000), 10_000_000);
        let half = passed("4Mbit/s", 100_000);
        assert!(half.abs_diff(5_100_000) <= 2000, "{half}");
    }

    #[test]
    fn a_packet_larger_than_the_bucket_never_passes() {
        assert_eq!(passed("4Mbit/s", 999), 0);
    }
}
