//! Seeded packet loss: independent, or in bursts.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::network::Loss;

/// Decides packet by packet. The same seed and settings lose the same packets of a sequence.
///
/// Bursts follow Gilbert's two-state chain (E. N. Gilbert, "Capacity of a burst-noise channel",
/// Bell System Technical Journal 39, 1960) with every packet of the bad state lost: the bad state
/// ends with probability 1 / burst, and begins as often as the long-run share demands.
#[derive(Debug)]
pub(super) struct LossProcess {
    rng: StdRng,
    begin: f64,
    stay: f64,
    losing: bool,
    /// Packets that are lost whatever the chain says.
    burst_left: u32,
}

impl LossProcess {
    /// Starts in the good state.
    pub(super) fn new(loss: Loss, seed: u64) -> Self {
        let mut process = Self {
            rng: StdRng::seed_from_u64(seed),
            begin: 0.0,
            stay: 0.0,
            losing: false,
            burst_left: 0,
        };
        process.set(loss);
        process
    }

    /// Changes the settings; the random sequence goes on.
    pub(super) fn set(&mut self, loss: Loss) {
        match loss.burst {
            // The chain without memory.
            None => (self.begin, self.stay) = (loss.share, loss.share),
            Some(burst) => {
                let end = 1.0 / burst;
                self.begin = (end * loss.share / (1.0 - loss.share)).min(1.0);
                self.stay = if loss.share > 0.0 { 1.0 - end } else { 0.0 };
            }
        }
    }

    /// The next `packets` are lost, and then the chain goes on.
    pub(super) fn burst(&mut self, packets: u32) {
        self.burst_left = packets;
    }

    /// Whether the next packet is lost.
    pub(super) fn lose(&mut self) -> bool {
        if let Some(left) = self.burst_left.checked_sub(1) {
            self.burst_left = left;
            return true;
        }
        let probability = if self.losing { self.stay } else { self.begin };
        self.losing = probability > 0.0 && self.rng.random_bool(probability);
        self.losing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of lost packets, and mean length of a run of them, over `count` packets.
    fn observe(loss: Loss, count: u32) -> (f64, f64) {
        let mut process = LossProcess::new(loss, 7);
        let (mut lost, mut runs, mut before) = (0_u32, 0_u32, false);
        for _ in 0..count {
            let now = process.lose();
            lost += u32::from(now);
            runs += u32::from(now && !before);
            before = now;
        }
        (
            f64::from(lost) / f64::from(count),
            f64::from(lost) / f64::from(runs.max(1)),
        )
    }

    #[test]
    fn independent_losses_have_the_share_asked_for() {
        // 2,000,000 draws at 0.1 %: one standard deviation is 2.2 % of the share.
        let (share, run) = observe(
            Loss {
                share: 0.001,
                burst: None,
            },
            2_000_000,
        );
        assert!((share / 0.001 - 1.0).abs() < 0.07, "{share}");
        assert!((run - 1.001).abs() < 0.01, "{run}");
    }

    #[test]
    fn bursts_have_the_share_and_the_length_asked_for() {
        let (share, run) = observe(
            Loss {
                share: 0.02,
                burst: Some(5.0),
            },
            2_000_000,
        );
        assert!((share / 0.02 - 1.0).abs() < 0.05, "{share}");
        assert!((run / 5.0 - 1.0).abs() < 0.05, "{run}");
    }

    #[test]
    fn a_burst_has_as_many_packets_as_asked_for() {
        let mut process = LossProcess::new(Loss::default(), 1);
        process.burst(3000);
        let lost = (0..5000).take_while(|_| process.lose()).count();
        assert_eq!(lost, 3000);
    }

    #[test]
    fn no_loss_loses_nothing() {
        assert_eq!(observe(Loss::default(), 100_000).0, 0.0);
        assert_eq!(
            observe(
                Loss {
                    share: 0.0,
                    burst: Some(3.0)
                },
                100_000
            )
            .0,
            0.0
        );
    }

    #[test]
    fn the_same_seed_loses_the_same_packets() {
        let sequence = |seed| {
            let mut process = LossProcess::new(
                Loss {
                    share: 0.3,
                    burst: None,
                },
                seed,
            );
            (0..200).map(|_| process.lose()).collect::<Vec<_>>()
        };
        assert_eq!(sequence(1), sequence(1));
        assert_ne!(sequence(1), sequence(2));
    }
}
