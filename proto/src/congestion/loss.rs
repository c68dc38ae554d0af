//! Tells losses that the sender causes from losses that the path has anyway.

/// Share of bytes lost that such paths may lose at random. Radio and long-haul links stay below
/// 3%; a policer or a full queue that is overrun by a probe loses 5% and more.
const TOLERATED_SHARE: f64 = 0.045;

/// Packets over which a share is judged, so that one loss on a thin path is not a verdict.
const SAMPLE_PACKETS: u64 = 128;

/// Standard deviations by which a share must exceed the tolerated one.
const SIGNIFICANCE: f64 = 2.0;

/// Counts bytes until there are enough to judge.
#[derive(Clone, Debug, Default)]
pub(super) struct LossMeter {
    delivered: u64,
    lost: u64,
}

impl LossMeter {
    pub(super) fn on_delivered(&mut self, bytes: u64) {
        self.delivered = self.delivered.saturating_add(bytes);
    }

    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.lost = self.lost.saturating_add(bytes);
    }

    /// Called at the end of a round. Whether more was lost than the path loses at random; `None`
    /// while there is too little to judge.
    pub(super) fn verdict(&mut self, mtu: u64) -> Option<bool> {
        let packets = self.delivered.saturating_add(self.lost) / mtu;
        if packets < SAMPLE_PACKETS {
            return None;
        }
        let share = self.lost as f64 / (self.delivered as f64 + self.lost as f64);
        let deviation = (TOLERATED_SHARE * (1.0 - TOLERATED_SHARE) / packets as f64).sqrt();
        self.reset();
        Some(share > TOLERATED_SHARE + SIGNIFICANCE * deviation)
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(delivered: u64, lost: u64) -> Option<bool> {
        let mut meter = LossMeter::default();
        meter.on_delivered(delivered * 1000);
        meter.on_lost(lost * 1000);
        meter.verdict(1000)
    }

    #[test]
    fn needs_enough_packets() {
        assert_eq!(verdict(10, 10), None);
        assert_eq!(verdict(0, 127), None);
        assert_eq!(verdict(0, 128), Some(true));
    }

    #[test]
    fn tolerates_random_loss_but_not_an_overrun() {
        assert_eq!(verdict(128, 0), Some(false));
        assert_eq!(verdict(970, 30), Some(false));
        assert_eq!(verdict(120, 9), Some(false));
        assert_eq!(verdict(900, 100), Some(true));
    }

    #[test]
    fn judges_each_sample_afresh_and_never_overflows() {
        let mut meter = LossMeter::default();
        meter.on_lost(u64::MAX);
        meter.on_lost(u64::MAX);
        meter.on_delivered(u64::MAX);
        assert_eq!(meter.verdict(1), Some(true));
        assert_eq!(meter.verdict(1), None);
    }
}
