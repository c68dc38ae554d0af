//! Rates, times and queue sizes as people write them: `100Mbit/s`, `20ms`, `64KiB`, `1bdp`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is not the quantity it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct UnitError {
    text: String,
    expected: &'static str,
}

/// Bits per second of IP packets, headers included; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    /// `None` for zero: a link that carries nothing is cut, not slow.
    pub const fn bits_per_sec(bits: u64) -> Option<Self> {
        if bits == 0 { None } else { Some(Self(bits)) }
    }

    /// The rate in bits per second.
    pub const fn as_bits_per_sec(self) -> u64 {
        self.0
    }

    /// This rate times `factor`, at least 1 bit/s.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self(((self.0 as f64 * factor).round() as u64).max(1))
    }

    /// How long `len` bytes occupy a link of this rate.
    pub fn time_for(self, len: usize) -> Duration {
        let nanos = len as u128 * 8 * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many whole bytes pass in `time`.
    pub fn bytes_in(self, time: Duration) -> u64 {
        let bytes = u128::from(self.0) * time.as_nanos() / 8 / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// Longest first, so that a parser may take the first that fits.
const RATE_UNITS: [(&str, f64); 4] = [
    ("Gbit/s", 1e9),
    ("Mbit/s", 1e6),
    ("kbit/s", 1e3),
    ("bit/s", 1.0),
];
const TIME_UNITS: [(&str, f64); 4] = [("ms", 1e6), ("us", 1e3), ("ns", 1.0), ("s", 1e9)];
const SIZE_UNITS: [(&str, f64); 6] = [
    ("GiB", 1073741824.0),
    ("MiB", 1048576.0),
    ("KiB", 1024.0),
    ("GB", 1e9),
    ("MB", 1e6),
    ("B", 1.0),
];

/// Bytes as people write them: `256MB`, `4MiB`.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    quantity(text, &SIZE_UNITS)
        .map(|bytes| bytes.round() as u64)
        .ok_or_else(|| UnitError {
            text: text.into(),
            expected: "a size such as 256MB",
        })
}

/// The number before the first of `units` that `text` ends with, times that unit.
fn quantity(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let number: f64 = number.trim_end().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * unit)
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        quantity(text, &RATE_UNITS)
            .and_then(|bits| Self::bits_per_sec(bits.round() as u64))
            .ok_or_else(|| UnitError {
                text: text.into(),
                expected: "a rate such as 100Mbit/s",
            })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0 as f64;
        let (name, unit) = RATE_UNITS
            .into_iter()
            .find(|&(_, unit)| bits >= unit)
            .unwrap_or(("bit/s", 1.0));
        write!(f, "{}{name}", bits / unit)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How many bytes may wait for a link before the next packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QueueLimit {
    /// This many bytes.
    Bytes(u64),
    /// What the link sends in this time.
    Time(Duration),
    /// This multiple of the link's rate × round-trip time.
    Bdp(f64),
}

impl QueueLimit {
    /// The limit of a queue before a link of `rate` on paths of up to `rtt`, at least `floor`.
    pub fn bytes(self, rate: Rate, rtt: Duration, floor: u64) -> u64 {
        let bytes = match self {
            Self::Bytes(bytes) => bytes,
            Self::Time(time) => rate.bytes_in(time),
            Self::Bdp(factor) => (rate.bytes_in(rtt) as f64 * factor) as u64,
        };
        bytes.max(floor)
    }
}

impl FromStr for QueueLimit {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if let Some(factor) = quantity(text, &[("bdp", 1.0)]) {
            return Ok(Self::Bdp(factor));
        }
        if let Some(bytes) = quantity(text, &SIZE_UNITS) {
            return Ok(Self::Bytes(bytes as u64));
        }
        parse_duration(text).map(Self::Time).map_err(|_| UnitError {
            text: text.into(),
            expected: "a queue limit such as 64KiB, 50ms or 1bdp",
        })
    }
}

impl fmt::Display for QueueLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}B"),
            Self::Time(time) => f.write_str(&format_duration(*time)),
            Self::Bdp(factor) => write!(f, "{factor}bdp"),
        }
    }
}

impl<'de> Deserialize<'de> for QueueLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for QueueLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The longest time a topology may name, so that sums of times cannot overflow.
const DURATION_MAX: Duration = Duration::from_secs(1_000_000);

/// Reads `20ms`, `1.5s`, `300us` or `10ns`; at most 1,000,000 s.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    quantity(text, &TIME_UNITS)
        .map(|nanos| Duration::from_nanos(nanos.round() as u64))
        .filter(|time| *time <= DURATION_MAX)
        .ok_or_else(|| UnitError {
            text: text.into(),
            expected: "a time such as 20ms",
        })
}

/// Writes what [`parse_duration`] reads, in the largest unit that is not above `time`.
pub(super) fn format_duration(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    let (name, unit) = [TIME_UNITS[3], TIME_UNITS[0], TIME_UNITS[1]]
        .into_iter()
        .find(|&(_, unit)| nanos >= unit)
        .unwrap_or(TIME_UNITS[2]);
    format!("{}{name}", nanos / unit)
}

/// `#[serde(with)]` for a [`Duration`].
pub(super) mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, de};

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }

    pub(in super::super) fn serialize<S: Serializer>(
        time: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*time))
    }
}

/// `#[serde(with)]` for an optional [`Duration`]; the field needs `default` and must be skipped
/// when it is `None`.
pub(crate) mod optional_duration {
    use super::{Deserializer, Duration, Serializer, duration};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        duration::deserialize(deserializer).map(Some)
    }

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => duration::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_rates() {
        for (text, bits) in [
            ("100Mbit/s", 100_000_000),
            ("4.35Gbit/s", 4_350_000_000),
            ("80kbit/s", 80_000),
            ("1bit/s", 1),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.as_bits_per_sec(), bits);
            assert_eq!(rate.to_string(), text);
        }
        for bad in ["0Mbit/s", "100", "fastMbit/s", "-1Mbit/s", "infGbit/s", ""] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_and_writes_times() {
        for (text, nanos) in [
            ("20ms", 20_000_000),
            ("1.5s", 1_500_000_000),
            ("300us", 300_000),
            ("7ns", 7),
        ] {
            let time = parse_duration(text).unwrap();
            assert_eq!(time, Duration::from_nanos(nanos));
            assert_eq!(format_duration(time), text);
        }
        for bad in ["20", "1h", "-1s", "nans", "1000001s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn queue_limits_become_bytes() {
        let rate: Rate = "100Mbit/s".parse().unwrap();
        let rtt = Duration::from_millis(40);
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("10ms", 125_000),
            ("1bdp", 500_000),
            ("0.5bdp", 250_000),
            ("1B", 15_000),
        ] {
            let limit: QueueLimit = text.parse().unwrap();
            assert_eq!(limit.bytes(rate, rtt, 15_000), bytes, "{text}");
            assert_eq!(limit.to_string().parse(), Ok(limit));
        }
        assert!("1".parse::<QueueLimit>().is_err());
    }

    #[test]
    fn a_rate_is_bytes_per_time() {
        let rate: Rate = "100Mbit/s".parse().unwrap();
        assert_eq!(rate.time_for(1500), Duration::from_micros(120));
        assert_eq!(rate.bytes_in(Duration::from_micros(120)), 1500);
        assert_eq!(rate.scaled(0.01), "1Mbit/s".parse().unwrap());
    }
}
