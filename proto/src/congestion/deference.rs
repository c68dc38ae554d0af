//! The window of background transfers: what others leave.
//!
//! The window grows while the path shows no queue. A short queue, as of flows that yield as this one
//! does, is let out at once, which keeps a path full. A longer one that the flow's own window does
//! not explain is somebody else's: then each round halves the window, down to the smallest. The idea
//! is that of LEDBAT, with the queue's owner beside a fixed delay.

use std::time::Duration;

/// A queue shorter than this is not told from timer and acknowledgement delays. The same at all round
/// trips: flows that meet at a link see one queue, and those that tolerate more of it starve the rest.
const QUEUE: Duration = Duration::from_millis(4);

/// By how much a queue must exceed what the flow's own window explains to be that of a flow that does
/// not yield. Background flows overshoot together, and acknowledgements wait in the queue of the other
/// end as well; a flow that fills queues soon has more.
const QUEUE_OF_OTHERS: Duration = Duration::from_millis(12);

/// Window over what the path delivers per smallest round trip: once our own queue shows, and once
/// somebody else's does.
const GAIN_YIELD: f64 = 0.95;
const GAIN_LEAVE: f64 = 0.5;

/// Rounds in a row that must show somebody else's queue: one may be a machine that was busy.
const CROWDED_ROUNDS: u32 = 2;

/// Growth per quiet round, and after how many it accelerates: a path that stays empty was left by
/// others.
const GROWTH: f64 = 0.02;
const GROWTH_MAX: f64 = 0.5;
const ACCELERATED_AFTER: i32 = 6;
const ACCELERATION: f64 = 1.6;

/// Growth while the window is far below what the path carries, once it has been quiet for a while.
const GROWTH_FAR: f64 = 0.4;
const FAR: f64 = 0.8;
const FAR_AFTER: i32 = 4;

/// Most by which the window may run ahead of what one round trip delivered.
const AHEAD_MAX: u64 = 2;

/// Part of the capacity that is forgotten with each round that shows a queue.
const CAPACITY_DECAY: u64 = 16;

/// What the path carried, and for how long it has shown no queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deference {
    quiet_rounds: i32,
    /// Rounds in a row that showed somebody else's queue.
    crowded_rounds: u32,
    /// Most bytes delivered per smallest round trip, lately.
    capacity: u64,
    /// Window of the round before, whose packets this round's acknowledgements are for.
    window_before: u64,
}

impl Deference {
    /// The window after a round. `rtt` was its smallest round trip, `min_rtt` is that of the path,
    /// and the path delivered `delivered` bytes per `min_rtt`. Up to `small` bytes, late
    /// acknowledgements make the delivery say little, and do not hold up growth.
    pub(super) fn next_window(
        &mut self,
        window: u64,
        rtt: Duration,
        min_rtt: Duration,
        delivered: u64,
        small: u64,
    ) -> u64 {
        let sent_with = std::mem::replace(&mut self.window_before, window).max(window);
        if !queue_shows(rtt, min_rtt) {
            self.crowded_rounds = 0;
            self.capacity = self.capacity.max(delivered);
            return self.grow(window, delivered.saturating_mul(AHEAD_MAX).max(small));
        }
        self.quiet_rounds = 0;
        let ours = sent_with as f64 / self.capacity.max(1) as f64;
        let explained = min_rtt.mul_f64(ours.clamp(1.0, 2.0)) + QUEUE_OF_OTHERS;
        let crowded = queue_shows(rtt, explained);
        self.crowded_rounds = if crowded { self.crowded_rounds + 1 } else { 0 };
        let gain = if self.crowded_rounds >= CROWDED_ROUNDS {
            GAIN_LEAVE
        } else {
            GAIN_YIELD
        };
        self.capacity = delivered.max(self.capacity - self.capacity / CAPACITY_DECAY);
        (delivered as f64 * gain) as u64
    }

    fn grow(&mut self, window: u64, most: u64) -> u64 {
        let quiet = self.quiet_rounds;
        self.quiet_rounds = quiet.saturating_add(1);
        let accelerated = (quiet - ACCELERATED_AFTER).clamp(0, 16);
        let mut growth = (GROWTH * ACCELERATION.powi(accelerated)).min(GROWTH_MAX);
        if quiet > FAR_AFTER && (window as f64) < self.capacity as f64 * FAR {
            growth = growth.max(GROWTH_FAR);
        }
        let grown = (window as f64 * (1.0 + growth)) as u64;
        grown.min(most).max(window)
    }

    /// More was lost than the path loses anyway.
    pub(super) fn on_overrun(&mut self) {
        self.quiet_rounds = 0;
    }
}

/// Whether every round trip of a round was so long that packets queued.
pub(super) fn queue_shows(rtt: Duration, min_rtt: Duration) -> bool {
    rtt > min_rtt + QUEUE
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn falls_round_by_round_beside_a_standing_queue() {
        let mut deference = Deference::default();
        let mut window = 1_000_000;
        for _ in 0..12 {
            // The window is delivered once per round trip of 170 ms.
            let delivered = window * 100 / 170;
            window = deference.next_window(window, ms(170), ms(100), delivered, 10_000);
        }
        assert!(window < 2000, "{window}");
    }

    #[test]
    fn lets_out_its_own_queue_and_stays() {
        let mut deference = Deference::default();
        deference.next_window(1_250_000, ms(100), ms(100), 1_250_000, 10_000);
        let window = deference.next_window(1_400_000, ms(110), ms(100), 1_250_000, 10_000);
        assert!((1_150_000..1_250_000).contains(&window), "{window}");
    }

    #[test]
    fn takes_an_emptied_path_within_25_rounds() {
        let mut deference = Deference::default();
        let mut window = 4000;
        for _ in 0..25 {
            window = deference.next_window(window, ms(101), ms(100), window, 10_000);
        }
        assert!(window > 1_000_000, "{window}");
    }
}
