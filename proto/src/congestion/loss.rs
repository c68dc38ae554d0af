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

/// Margin of the raised tolerance over the share seen.
const MARGIN: f64 = 1.3;

/// Part of the raised tolerance that is given up with each sample far below it.
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
    tolerated: f64,
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
            tolerated: TOLERATED_SHARE,
            answered: None,
            unmoved: 0,
            skip: false,
        }
    }

    /// Whether of so many bytes more were lost than the path loses anyway.
    pub(super) fn is_excessive(&self, delivered: u64, lost: u64, mtu: u64) -> bool {
        let bytes = delivered as f64 + lost as f64;
        let packets = (bytes / mtu as f64).max(1.0);
        let deviation = (self.tolerated * (1.0 - self.tolerated) / packets).sqrt();
        lost as f64 > bytes * (self.tolerated + SIGNIFICANCE * deviation)
    }

    pub(super) fn on_delivered(&mut self, bytes: u64) {
        self.delivered = self.delivered.saturating_add(bytes);
    }

    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.lost = self.lost.saturating_add(bytes);
    }

    /// Called at the end of a round. The caller answers [`Verdict::Overrun`] by sending less.
    /// Beside a rival (not `alone`) losses may be the rival's, and teach nothing about the path.
    pub(super) fn judge(&mut self, mtu: u64, alone: bool) -> Verdict {
        let packets = self.delivered.saturating_add(self.lost) / mtu;
        if packets < SAMPLE_PACKETS {
            return Verdict::Tolerable;
        }
        let (delivered, lost) = (self.delivered, self.lost);
        self.delivered = 0;
        self.lost = 0;
        if std::mem::take(&mut self.skip) {
            return Verdict::Tolerable;
        }
        let share = lost as f64 / (delivered as f64 + lost as f64);
        let before = self.answered.take();
        if !self.is_excessive(delivered, lost, mtu) {
            self.unmoved = 0;
            if share < self.tolerated / 2.0 {
                self.tolerated -= (self.tolerated - TOLERATED_SHARE) * DECAY;
            }
            return Verdict::Tolerable;
        }
        if alone && before.is_some_and(|before| share > before * UNMOVED) {
            self.unmoved += 1;
            if self.unmoved >= UNMOVED_ANSWERS {
                self.unmoved = 0;
                self.tolerated = (share * MARGIN).min(TOLERATED_SHARE_MAX);
                return Verdict::Indifferent;
            }
        }
        self.answered = Some(share);
        self.skip = true;
        Verdict::Overrun(share)
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(meter: &mut LossMeter, delivered: u64, lost: u64) -> Verdict {
        meter.on_delivered(delivered * 1000);
        meter.on_lost(lost * 1000);
        meter.judge(1000, true)
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
    fn never_overflows() {
        let mut meter = LossMeter::new();
        meter.on_lost(u64::MAX);
        meter.on_lost(u64::MAX);
        meter.on_delivered(u64::MAX);
        assert!(matches!(meter.judge(1, true), Verdict::Overrun(_)));
        assert_eq!(meter.judge(1, true), Verdict::Tolerable);
    }
}
