//! Tells losses that the sender causes from losses that the path has anyway.
//!
//! Loss at random does not depend on how much is sent; loss at a full queue or a policer does. So
//! a share of losses beyond what is tolerated calls for sending less, and when sending less again
//! and again does not lower the share, the path loses that much anyway and the tolerance rises.

/// Share of bytes that paths may lose at random without question. Radio and long-haul links stay
/// below 3%; a policer or a full queue that is overrun by a probe loses 5% and more.
const TOLERATED_SHARE: f64 = 0.045;

/// Upper end of the tolerance. A path that loses more is not worth filling.
const TOLERATED_SHARE_MAX: f64 = 0.2;

/// A share that stays above this part of what it was, after sending less, has not moved.
const UNMOVED: f64 = 0.75;

/// Answers in a row that do not move the share, after which it is not the sender's.
const UNMOVED_ANSWERS: u32 = 2;

/// Once an overrun was answered, a share beyond this shows that the answer was not enough, or that the path loses this
/// much anyway; another answer tells which.
const CURED_SHARE: f64 = 0.01;

/// Part of the path's own share that is given up with each sample far below it.
const DECAY: f64 = 1.0 / 32.0;

/// Packets over which a share is judged, so that one loss on a thin path is not a verdict.
const SAMPLE_PACKETS: u64 = 128;

/// Standard deviations by which a share must exceed the tolerated one.
const SIGNIFICANCE: f64 = 2.0;

/// What a round's losses say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Too few packets to tell, or no more lost than the path loses.
    Tolerable,
    /// The sender overran the path; the share of bytes that was lost.
    Overrun(f64),
    /// Sending less did not lower the losses: they are not the sender's.
    Indifferent,
}

/// Counts bytes until there are enough to judge.
#[derive(Clone, Debug)]
pub(super) struct LossMeter {
    delivered: u64,
    lost: u64,
    /// Share that the path loses whatever is sent, as far as that was found out.
    own: f64,
    /// Share of the overrun that was answered last, until the answer's effect is seen.
    answered: Option<f64>,
    unmoved: u32,
    /// The sample at hand still holds packets from before the answer.
    skip: bool,
}

impl LossMeter {
    pub(super) fn new() -> Self {
        Self {
            delivered: 0,
            lost: 0,
            own: 0.0,
            answered: None,
            unmoved: 0,
            skip: false,
        }
    }

    /// Whether of so many bytes more were lost than the path loses anyway.
    pub(super) fn is_excessive(&self, delivered: u64, lost: u64, mtu: u64) -> bool {
        is_beyond(self.tolerated(), delivered, lost, mtu)
    }

    fn tolerated(&self) -> f64 {
        (TOLERATED_SHARE + self.own).min(TOLERATED_SHARE_MAX)
    }

    pub(super) fn on_delivered(&mut self, bytes: u64) {
        self.delivered = self.delivered.saturating_add(bytes);
    }

    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.lost = self.lost.saturating_add(bytes);
    }

    /// Called at the end of a round. The caller answers [`Verdict::Overrun`] by sending less.
    /// Beside a rival (not `alone`) losses may be the rival's, and teach nothing about the path.
    /// Nor does a `burst`, most of the losses at once.
    pub(super) fn judge(&mut self, mtu: u64, alone: bool, burst: bool) -> Verdict {
        let packets = self.delivered.saturating_add(self.lost) / mtu;
        if packets < SAMPLE_PACKETS {
            return Verdict::Tolerable;
        }
        let (delivered, lost) = (self.delivered, self.lost);
        let share = lost as f64 / (delivered as f64 + lost as f64);
        let excessive = self.is_excessive(delivered, lost, mtu);
        let undecided = !excessive && share > self.tolerated() && self.answered.is_none();
        if alone && undecided && !self.skip {
            // More packets will tell.
            return Verdict::Tolerable;
        }
        self.delivered = 0;
        self.lost = 0;
        if std::mem::take(&mut self.skip) {
            return Verdict::Tolerable;
        }
        let answered = self.answered.take();
        let goes_on = match answered {
            Some(_) if alone => is_beyond(CURED_SHARE, delivered, lost, mtu),
            _ => excessive,
        };
        if !goes_on {
            self.unmoved = 0;
            if share < self.own / 2.0 {
                self.own -= self.own * DECAY;
            }
            return Verdict::Tolerable;
        }
        if alone && !burst && answered.is_some_and(|before| share > before * UNMOVED) {
            self.unmoved += 1;
            if self.unmoved >= UNMOVED_ANSWERS {
                self.unmoved = 0;
                self.own = self.own.max(share);
                return Verdict::Indifferent;
            }
        }
        self.answered = (!burst).then_some(share);
        self.skip = true;
        Verdict::Overrun(share)
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }
}

/// Whether of so many bytes significantly more than a share was lost.
fn is_beyond(share: f64, delivered: u64, lost: u64, mtu: u64) -> bool {
    let bytes = delivered as f64 + lost as f64;
    let packets = (bytes / mtu as f64).max(1.0);
    let deviation = (share * (1.0 - share) / packets).sqrt();
    lost as f64 > bytes * (share + SIGNIFICANCE * deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(meter: &mut LossMeter, delivered: u64, lost: u64) -> Verdict {
        meter.on_delivered(delivered * 1000);
        meter.on_lost(lost * 1000);
        meter.judge(1000, true, false)
    }

    #[test]
    fn needs_enough_packets() {
        let mut meter = LossMeter::new();
        assert_eq!(round(&mut meter, 10, 10), Verdict::Tolerable);
        assert!(matches!(round(&mut meter, 30, 78), Verdict::Overrun(_)));
    }

    #[test]
    fn tolerates_random_loss_but_not_an_overrun() {
        for (delivered, lost) in [(128, 0), (970, 30), (120, 9)] {
            let verdict = round(&mut LossMeter::new(), delivered, lost);
            assert_eq!(verdict, Verdict::Tolerable, "{delivered} {lost}");
        }
        assert_eq!(
            round(&mut LossMeter::new(), 900, 100),
            Verdict::Overrun(0.1)
        );
    }

    #[test]
    fn loss_that_sending_less_does_not_lower_is_the_path_s() {
        let mut meter = LossMeter::new();
        let verdicts: Vec<_> = (0..6).map(|_| round(&mut meter, 900, 100)).collect();
        assert_eq!(verdicts[4], Verdict::Indifferent, "{verdicts:?}");
        for _ in 0..100 {
            assert_eq!(round(&mut meter, 900, 100), Verdict::Tolerable);
        }
        // The path recovers, and is held to the usual tolerance again.
        for _ in 0..200 {
            round(&mut meter, 1000, 0);
        }
        assert!(matches!(round(&mut meter, 900, 100), Verdict::Overrun(_)));
    }

    #[test]
    fn loss_that_sending_less_cures_stays_the_sender_s() {
        let mut meter = LossMeter::new();
        for _ in 0..20 {
            assert!(matches!(round(&mut meter, 800, 200), Verdict::Overrun(_)));
            for _ in 0..3 {
                assert_eq!(round(&mut meter, 1000, 0), Verdict::Tolerable);
            }
        }
    }

    #[test]
    fn what_is_still_lost_after_an_answer_is_answered_too() {
        let mut meter = LossMeter::new();
        assert!(matches!(round(&mut meter, 700, 300), Verdict::Overrun(_)));
        assert_eq!(
            round(&mut meter, 700, 300),
            Verdict::Tolerable,
            "from before"
        );
        // Tolerable on a path of which nothing is known, but the answer should have cured it.
        assert_eq!(round(&mut meter, 960, 40), Verdict::Overrun(0.04));
        round(&mut meter, 960, 40);
        assert_eq!(round(&mut meter, 1000, 0), Verdict::Tolerable);
        assert_eq!(round(&mut meter, 960, 40), Verdict::Tolerable);
    }

    #[test]
    fn a_little_too_much_is_found_with_more_packets() {
        let mut meter = LossMeter::new();
        let verdicts: Vec<_> = (0..20).map(|_| round(&mut meter, 141, 9)).collect();
        assert_eq!(verdicts[0], Verdict::Tolerable);
        let found = verdicts.iter().any(|v| matches!(v, Verdict::Overrun(_)));
        assert!(found, "6% for {} rounds", verdicts.len());
    }

    #[test]
    fn never_overflows() {
        let mut meter = LossMeter::new();
        meter.on_lost(u64::MAX);
        meter.on_lost(u64::MAX);
        meter.on_delivered(u64::MAX);
        assert!(matches!(meter.judge(1, true, false), Verdict::Overrun(_)));
        assert_eq!(meter.judge(1, true, false), Verdict::Tolerable);
    }
}
