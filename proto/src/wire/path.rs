//! What the sending end of a connection knows of its path. Only that end sees rate and losses, so it tells the other.

use std::time::Duration;

use crate::codec::{DecodeError, Reader, put_varint};
use crate::congestion::State;

/// Figures of one direction of a connection, by its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathFigures {
    /// What the path was found to carry, bytes per second, in rounds that were limited by the path.
    pub rate: Option<u64>,
    /// Round trip, smoothed, to the microsecond.
    pub rtt: Option<Duration>,
    /// Smallest round trip seen lately, to the microsecond.
    pub rtt_min: Option<Duration>,
    /// Packets sent since the connection began.
    pub packets_sent: u64,
    /// Those of them that were declared lost.
    pub packets_lost: u64,
    /// Bytes in these, which were sent again.
    pub bytes_lost: u64,
    /// What the congestion controller is doing.
    pub state: State,
}

/// Longest round trip in microseconds: 71 minutes.
const RTT_MAX_US: u64 = u32::MAX as u64;

impl PathFigures {
    /// Appends the encoding; zero stands for what is not known.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let micros = |time: Option<Duration>| {
            let micros = time.map_or(0, |time| time.as_micros());
            u64::try_from(micros).unwrap_or(u64::MAX).min(RTT_MAX_US)
        };
        for number in [
            self.rate.unwrap_or(0),
            micros(self.rtt),
            micros(self.rtt_min),
            self.packets_sent,
            self.packets_lost,
            self.bytes_lost,
        ] {
            put_varint(out, number);
        }
        out.push(self.state.number());
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let known = |number: u64| (number > 0).then_some(number);
        Ok(Self {
            rate: known(reader.varint(u64::MAX, "rate")?),
            rtt: known(reader.varint(RTT_MAX_US, "round trip")?).map(Duration::from_micros),
            rtt_min: known(reader.varint(RTT_MAX_US, "round trip")?).map(Duration::from_micros),
            packets_sent: reader.varint(u64::MAX, "packets sent")?,
            packets_lost: reader.varint(u64::MAX, "packets lost")?,
            bytes_lost: reader.varint(u64::MAX, "bytes lost")?,
            state: state(reader.u8("state")?)?,
        })
    }

    /// These figures with only what was sent since `earlier` ones of the same connection.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            packets_sent: self.packets_sent.saturating_sub(earlier.packets_sent),
            packets_lost: self.packets_lost.saturating_sub(earlier.packets_lost),
            bytes_lost: self.bytes_lost.saturating_sub(earlier.bytes_lost),
            ..*self
        }
    }
}

fn state(number: u8) -> Result<State, DecodeError> {
    State::from_number(number).ok_or(DecodeError::Unknown {
        what: "state",
        value: number.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<PathFigures, DecodeError> {
        let mut reader = Reader::new(bytes);
        let figures = PathFigures::decode(&mut reader)?;
        reader.finish("path")?;
        Ok(figures)
    }

    proptest! {
        #[test]
        fn round_trip(
            (rate, rtt, rtt_min) in (any::<u64>(), any::<u32>(), any::<u32>()),
            (packets_sent, packets_lost, bytes_lost) in any::<(u64, u64, u64)>(),
            state in 0u8..7,
        ) {
            let micros = |us: u32| (us > 0).then(|| Duration::from_micros(us.into()));
            let figures = PathFigures {
                rate: (rate > 0).then_some(rate),
                rtt: micros(rtt),
                rtt_min: micros(rtt_min),
                packets_sent,
                packets_lost,
                bytes_lost,
                state: State::from_number(state).unwrap(),
            };
            let mut out = Vec::new();
            figures.encode(&mut out);
            prop_assert_eq!(decode(&out), Ok(figures));
        }
    }

    #[test]
    fn what_is_beyond_a_bound_is_refused() {
        let known = [1, 1, 1, 1, 1, 1, 0];
        assert!(decode(&known).is_ok());
        assert!(decode(&known[..6]).is_err());
        assert!(decode(&[1, 1, 1, 1, 1, 1, 7]).is_err(), "no such state");
        let long = [1, 0x80, 0x80, 0x80, 0x80, 0x10, 1, 1, 1, 1, 0];
        assert!(decode(&long).is_err(), "a round trip of 2^32 µs");
    }

    #[test]
    fn counts_are_those_since() {
        let figures = |packets_sent, packets_lost| PathFigures {
            rate: Some(packets_sent),
            rtt: None,
            rtt_min: None,
            packets_sent,
            packets_lost,
            bytes_lost: packets_lost * 1000,
            state: State::Cruise,
        };
        let since = figures(100, 3).since(&figures(60, 1));
        assert_eq!((since.packets_sent, since.packets_lost), (40, 2));
        assert_eq!((since.bytes_lost, since.rate), (2000, Some(100)));
        // A connection began anew between the two.
        assert_eq!(figures(5, 0).since(&figures(60, 1)).packets_sent, 0);
    }
}
