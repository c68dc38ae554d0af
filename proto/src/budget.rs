//! Caps on what a site sends or receives: for all of it, for background work, for single peers.
//!
//! A [`Pacer`] keeps one cap as a clock: each byte moves it by its time at the rate of the cap, and
//! who has taken something waits until the clock is no longer ahead. All who share a cap share its
//! clock, so their sum holds it and they take turns. A [`Budget`] is one direction's caps together:
//! bytes move the clocks of every cap that they fall under, and the latest of these decides.
//!
//! No I/O and no clock: times are [`Duration`]s since an epoch of the caller's choice and may stand
//! still or step.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::congestion::Class;

/// How late a taker may come without losing what it could have taken: timers have a grain of 1 ms,
/// and a busy machine wakes a sender some milliseconds late. Also the longest burst after idling.
const LATENESS_MAX: Duration = Duration::from_millis(20);

/// A cap: bytes per second.
pub type Cap = Option<NonZeroU64>;

/// One cap as a clock (the virtual scheduling of ITU-T I.371's generic cell rate algorithm).
#[derive(Debug, Clone, Default)]
pub struct Pacer {
    cap: Cap,
    /// What was taken so far is paid for at this time.
    free_at: Duration,
}

impl Pacer {
    /// An idle pacer; without a cap it lets everything through.
    pub fn new(cap: Cap) -> Self {
        Self {
            cap,
            free_at: Duration::ZERO,
        }
    }

    /// Changes the cap. What was taken under the old one is forgiven: it was within that.
    pub fn set_cap(&mut self, now: Duration, cap: Cap) {
        if self.cap != cap {
            self.cap = cap;
            self.free_at = self.free_at.min(now);
        }
    }

    /// Takes `bytes` and returns the time before which the taker may not take again.
    pub fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let Some(cap) = self.cap else {
            return now;
        };
        let start = self.free_at.max(now.saturating_sub(LATENESS_MAX));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(cap.get());
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = start.saturating_add(cost);
        self.free_at.max(now)
    }
}

/// The caps of one direction.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    site: Pacer,
    background: Pacer,
    /// Peers without a cap of their own are not in it.
    peers: BTreeMap<String, Pacer>,
}

impl Budget {
    /// Changes all caps at once; peers that are not named have none any more.
    pub fn set_caps(
        &mut self,
        now: Duration,
        site: Cap,
        background: Cap,
        peers: impl IntoIterator<Item = (String, NonZeroU64)>,
    ) {
        self.site.set_cap(now, site);
        self.background.set_cap(now, background);
        let mut before = std::mem::take(&mut self.peers);
        for (peer, cap) in peers {
            let mut pacer = before.remove(&peer).unwrap_or_default();
            pacer.set_cap(now, Some(cap));
            self.peers.insert(peer, pacer);
        }
    }

    /// Whether there is any cap.
    pub fn is_capped(&self) -> bool {
        self.smallest_cap().is_some()
    }

    /// The smallest of all caps.
    pub fn smallest_cap(&self) -> Cap {
        let caps = [self.site.cap, self.background.cap];
        let peers = self.peers.values().map(|pacer| pacer.cap);
        caps.into_iter().chain(peers).flatten().min()
    }

    /// The smallest cap that interactive work with a peer falls under.
    pub fn cap_of(&self, peer: &str) -> Cap {
        let own = self.peers.get(peer).and_then(|pacer| pacer.cap);
        [self.site.cap, own].into_iter().flatten().min()
    }

    /// Takes `bytes` to or from a peer, if it is known which, for work of a class. Returns the time
    /// before which this taker may not take again.
    pub fn take(
        &mut self,
        now: Duration,
        peer: Option<&str>,
        class: Class,
        bytes: u64,
    ) -> Duration {
        let mut free_at = self.site.take(now, bytes);
        if class == Class::Background {
            free_at = free_at.max(self.background.take(now, bytes));
        }
        if let Some(pacer) = peer.and_then(|peer| self.peers.get_mut(peer)) {
            free_at = free_at.max(pacer.take(now, bytes));
        }
        free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: u64 = 14_520;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn cap(bytes_per_second: u64) -> Cap {
        NonZeroU64::new(bytes_per_second)
    }

    /// Takers that always want more, each woken up to `late` after its turn. Bytes taken by each.
    fn run(
        budget: &mut Budget,
        takers: &[(&str, Class)],
        from: Duration,
        to: Duration,
        late: Duration,
    ) -> Vec<u64> {
        let mut taken = vec![0; takers.len()];
        let mut turns = vec![from; takers.len()];
        for step in 0.. {
            let Some((next, &at)) = turns.iter().enumerate().min_by_key(|(_, at)| **at) else {
                break;
            };
            if at >= to {
                break;
            }
            let now = at + late * (step % 7) / 7;
            let (peer, class) = takers[next];
            turns[next] = budget.take(now, Some(peer), class, BATCH).max(now);
            taken[next] += BATCH;
        }
        taken
    }

    #[test]
    fn many_takers_hold_a_cap_together_and_share_it_evenly() {
        let mut budget = Budget::default();
        budget.set_caps(ms(0), cap(2_500_000), None, []);
        let takers = [("a", Class::Interactive); 50];
        let taken = run(&mut budget, &takers, ms(0), ms(10_000), ms(15));
        let sum: u64 = taken.iter().sum();
        let target = 25_000_000;
        assert!(
            sum.abs_diff(target) <= target * 3 / 100,
            "{sum} of {target}"
        );
        let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
        assert!(most - least <= 2 * BATCH, "{least} to {most}");
    }

    #[test]
    fn each_cap_binds_those_that_fall_under_it() {
        let mut budget = Budget::default();
        let slow = ("slow".to_owned(), NonZeroU64::new(500_000).unwrap());
        budget.set_caps(ms(0), cap(5_000_000), cap(1_000_000), [slow]);
        let takers = [
            ("slow", Class::Interactive),
            ("a", Class::Background),
            ("b", Class::Background),
            ("c", Class::Interactive),
        ];
        let taken = run(&mut budget, &takers, ms(0), ms(10_000), ms(0));
        let near = |bytes: u64, target: u64| bytes.abs_diff(target) <= target * 3 / 100;
        assert!(near(taken[0], 5_000_000), "{taken:?}");
        assert!(near(taken[1] + taken[2], 10_000_000), "{taken:?}");
        assert!(near(taken.iter().sum(), 50_000_000), "{taken:?}");
    }

    #[test]
    fn a_changed_cap_holds_at_once() {
        let mut budget = Budget::default();
        let takers = [("a", Class::Interactive); 5];
        budget.set_caps(ms(0), cap(100_000), None, []);
        run(&mut budget, &takers, ms(0), ms(5_000), ms(0));
        budget.set_caps(ms(5_000), cap(10_000_000), None, []);
        let taken = run(&mut budget, &takers, ms(5_000), ms(6_000), ms(0));
        let sum: u64 = taken.iter().sum();
        assert!(sum.abs_diff(10_000_000) < 300_000, "{sum}");
        budget.set_caps(ms(6_000), cap(100_000), None, []);
        let taken = run(&mut budget, &takers, ms(6_000), ms(7_000), ms(0));
        // Each may have begun once.
        let sum: u64 = taken.iter().sum();
        assert!(sum <= 100_000 + 6 * BATCH, "{sum}");
        budget.set_caps(ms(7_000), None, None, []);
        assert!(!budget.is_capped());
        let at = budget.take(ms(7_000), Some("a"), Class::Interactive, u64::MAX);
        assert_eq!(at, ms(7_000));
    }

    #[test]
    fn idling_saves_up_no_more_than_a_short_burst() {
        let mut pacer = Pacer::new(cap(1_000_000));
        pacer.take(ms(0), 1000);
        let mut burst = 0;
        while pacer.take(ms(60_000), 1000) <= ms(60_000) {
            burst += 1000;
        }
        assert!(burst <= 20_000, "{burst}");
    }

    #[test]
    fn strange_times_and_amounts_do_no_harm() {
        let mut pacer = Pacer::new(cap(1));
        for now in [ms(1000), ms(0), ms(0), Duration::MAX] {
            assert!(pacer.take(now, u64::MAX) >= now);
        }
        pacer.set_cap(ms(0), cap(1_000_000));
        assert!(pacer.take(ms(0), 1000) <= ms(1));
    }
}
