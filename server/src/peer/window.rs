//! Windows of connections: how much may be under way to a reader, and how much a writer may be ahead.
//!
//! Each direction of a connection wishes for four times what its path holds, as measured, so that it is never the window
//! that limits it: where packets are lost, what came after a lost one waits for it to come again, a round trip and more,
//! and now and then twice. A flow held back by its window fills it, and so has a larger one next. All of them share one ceiling on
//! memory; when their wishes exceed it, each gets its part.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Before anything is measured, and for small paths: 100 Mbit/s at 300 ms.
pub(super) const LEAST: u64 = 4 * 1024 * 1024;
/// Eight streams of 4 MiB each hold no more ([`super::transport`]): 400 Mbit/s at 300 ms, of which every lost packet holds
/// up a window.
const MOST: u64 = 32 * 1024 * 1024;
/// What everybody gets, however many share the ceiling: some frames.
const SHARE_MIN: u64 = 256 * 1024;
/// Window over what the path holds.
const GAIN: u64 = 4;
/// Part of a wish that is forgotten with each [`Window::fit`]: half in 22 s, at two a second.
const DECAY: u64 = 64;

/// All windows of a site.
#[derive(Debug)]
pub struct Windows {
    ceiling: u64,
    /// Sum of all wishes.
    wished: AtomicU64,
}

impl Windows {
    /// Windows that together stay within `ceiling` bytes, but for the least that each gets.
    pub fn new(ceiling: u64) -> Arc<Self> {
        Arc::new(Self {
            ceiling,
            wished: AtomicU64::new(0),
        })
    }

    /// The window of one more direction of a connection, until it is dropped.
    pub fn open(self: &Arc<Self>) -> Window {
        self.wished.fetch_add(LEAST, Ordering::Relaxed);
        Window {
            windows: self.clone(),
            wish: LEAST,
        }
    }

    fn share(&self, wish: u64) -> u64 {
        let wished = self.wished.load(Ordering::Relaxed).max(1);
        if wished <= self.ceiling {
            return wish;
        }
        let part = u128::from(wish) * u128::from(self.ceiling) / u128::from(wished);
        u64::try_from(part).unwrap_or(wish).max(SHARE_MIN)
    }
}

/// One of the [`Windows`].
#[derive(Debug)]
pub struct Window {
    windows: Arc<Windows>,
    wish: u64,
}

impl Window {
    /// The window for a path that holds so many bytes at present. Idle paths keep theirs for a while.
    pub fn fit(&mut self, held: u64) -> u64 {
        let kept = self.wish - self.wish / DECAY;
        let wish = held.saturating_mul(GAIN).max(kept).clamp(LEAST, MOST);
        // Differences wrap, and their sum is right.
        let change = wish.wrapping_sub(self.wish);
        self.windows.wished.fetch_add(change, Ordering::Relaxed);
        self.wish = wish;
        self.windows.share(wish)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.windows.wished.fetch_sub(self.wish, Ordering::Relaxed);
    }
}

/// What a path has brought lately, in bytes that it holds: rate × round trip.
#[derive(Debug)]
pub struct Arrivals {
    bytes: u64,
    at: Instant,
}

impl Arrivals {
    /// By `now`, `bytes` have come.
    pub fn new(now: Instant, bytes: u64) -> Self {
        Self { bytes, at: now }
    }

    /// What the path holds, if `bytes` have come in all.
    pub fn held(&mut self, now: Instant, bytes: u64, round_trip: Duration) -> u64 {
        let time = now.saturating_duration_since(self.at);
        let new = bytes.saturating_sub(self.bytes);
        if time.is_zero() {
            return 0;
        }
        (self.bytes, self.at) = (bytes, now);
        (new as f64 * round_trip.as_secs_f64() / time.as_secs_f64()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_flow_that_its_window_limits_gets_a_larger_one() {
        let windows = Windows::new(1024 * MIB);
        let mut window = windows.open();
        assert_eq!(window.fit(MIB), 4 * MIB);
        // Half of the window a round trip, as where every lost packet holds up what follows.
        assert_eq!(window.fit(2 * MIB), 8 * MIB);
        assert_eq!(window.fit(4 * MIB), 16 * MIB);
        assert_eq!(window.fit(u64::MAX), MOST);
    }

    #[test]
    fn a_window_outlasts_a_pause_and_not_an_idle_hour() {
        let windows = Windows::new(1024 * MIB);
        let mut window = windows.open();
        window.fit(8 * MIB);
        assert!(window.fit(0) > 31 * MIB);
        for _ in 0..7200 {
            window.fit(0);
        }
        assert_eq!(window.fit(0), LEAST);
    }

    #[test]
    fn all_stay_within_the_ceiling_and_nobody_starves() {
        let windows = Windows::new(64 * MIB);
        let mut many: Vec<Window> = (0..32).map(|_| windows.open()).collect();
        many[0].fit(MOST);
        // The first looked before the others' wishes were known; the next look is right.
        let shares: Vec<u64> = (0..32).map(|i| many[i].fit(0)).collect();
        assert!(shares.iter().sum::<u64>() <= 64 * MIB, "{shares:?}");
        assert!(shares[0] > 3 * shares[1], "who needs more gets more");
        many.truncate(2);
        assert_eq!(many[1].fit(MOST), MOST, "what others gave back is free");

        let windows = Windows::new(MIB);
        let mut many: Vec<Window> = (0..512).map(|_| windows.open()).collect();
        assert!(many.iter_mut().all(|window| window.fit(0) == SHARE_MIN));
    }

    #[test]
    fn a_path_holds_its_rate_times_its_round_trip() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start, 0);
        let later = start + Duration::from_millis(500);
        // 12.5 MB/s at 100 ms.
        let held = arrivals.held(later, 6_250_000, Duration::from_millis(100));
        assert_eq!(held, 1_250_000);
        assert_eq!(arrivals.held(later, 9_000_000, Duration::from_secs(1)), 0);
        let held = arrivals.held(start, 0, Duration::from_secs(1));
        assert_eq!(held, 0, "a clock that stands still, counts that fall");
    }
}
