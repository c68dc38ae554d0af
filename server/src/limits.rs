//! What a site may send to others and receive from them: `[limits]`, and the same in the admin API.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use vitrail_proto::budget;

/// Below this, one packet takes 190 ms, and a connection could seem dead.
const RATE_MIN: u64 = 64_000;
/// Beyond any site's link.
const RATE_MAX: u64 = 1_000_000_000_000;
/// Peers with limits of their own.
const PEERS_MAX: usize = 256;

/// Bits per second of IP packets, written as `"20Mbit/s"`: 64 kbit/s to 1 Tbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(u64);

/// The largest first, so that a rate is written in the largest unit of which it is a whole number.
const UNITS: [(&str, u64); 4] = [
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
    ("bit/s", 1),
];

impl Rate {
    /// The rate in bytes per second.
    pub fn bytes_per_second(self) -> NonZeroU64 {
        NonZeroU64::new(self.0 / 8).unwrap_or(NonZeroU64::MIN)
    }
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let found = UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
        let (number, unit) =
            found.with_context(|| format!("{text:?} is not a rate such as \"20Mbit/s\""))?;
        let number: f64 = number
            .trim()
            .parse()
            .with_context(|| format!("{text:?} is not a rate such as \"20Mbit/s\""))?;
        let bits = (number * unit as f64).round();
        if !(RATE_MIN as f64..=RATE_MAX as f64).contains(&bits) {
            bail!("{text:?} is out of range: 64kbit/s to 1000Gbit/s");
        }
        Ok(Self(bits as u64))
    }
}

impl TryFrom<String> for Rate {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, unit)| self.0.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(&UNITS[3]);
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

/// Limits of both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// Most that is sent. Default: no limit.
    pub send: Option<Rate>,
    /// Most that is received. Default: no limit.
    pub receive: Option<Rate>,
}

/// `[limits]`. Rates are of IP packets, everything that sites say to each other included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most that is sent to all other sites together. Default: no limit.
    pub send: Option<Rate>,
    /// Most that is received from all other sites together. Default: no limit.
    pub receive: Option<Rate>,
    /// Of background work alone: preseeding and repair. Default: no limit.
    pub background: Limit,
    /// Of single sites, by name. Default: none.
    pub peers: BTreeMap<String, Limit>,
}

impl Limits {
    /// Checks what types cannot.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.peers.len() > PEERS_MAX {
            bail!("limits for {} sites; at most {PEERS_MAX}", self.peers.len());
        }
        Ok(())
    }

    /// Puts the limits into the budgets of both directions.
    pub(crate) fn apply(
        &self,
        now: std::time::Duration,
        send: &mut budget::Budget,
        receive: &mut budget::Budget,
    ) {
        let cap = |rate: Option<Rate>| rate.map(Rate::bytes_per_second);
        let peers = |of: fn(&Limit) -> Option<Rate>| {
            let capped = move |(name, limit): (&String, &Limit)| {
                Some((name.clone(), of(limit)?.bytes_per_second()))
            };
            self.peers.iter().filter_map(capped)
        };
        let background = self.background;
        send.set_caps(
            now,
            cap(self.send),
            cap(background.send),
            peers(|limit| limit.send),
        );
        receive.set_caps(
            now,
            cap(self.receive),
            cap(background.receive),
            peers(|limit| limit.receive),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units_and_bounds() {
        for (text, bytes, written) in [
            ("20Mbit/s", 2_500_000, "20Mbit/s"),
            ("1.5 Gbit/s", 187_500_000, "1500Mbit/s"),
            ("64kbit/s", 8_000, "64kbit/s"),
            ("100001bit/s", 12_500, "100001bit/s"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.bytes_per_second().get(), bytes);
            assert_eq!(rate.to_string(), written);
        }
        for bad in [
            "20",
            "20MB/s",
            "0Mbit/s",
            "-1Mbit/s",
            "63kbit/s",
            "NaNbit/s",
            "1001Gbit/s",
            "",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_configuration_and_the_admin_api_say_the_same() {
        let limits: Limits = toml::from_str(
            "send = \"20Mbit/s\"\n[background]\nsend = \"5Mbit/s\"\n[peers.lyon]\nreceive = \"1Gbit/s\"\n",
        )
        .unwrap();
        let json = serde_json::to_value(&limits).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "send": "20Mbit/s", "receive": null,
                "background": {"send": "5Mbit/s", "receive": null},
                "peers": {"lyon": {"send": null, "receive": "1Gbit/s"}},
            })
        );
        assert_eq!(serde_json::from_value::<Limits>(json).unwrap(), limits);
        assert!(toml::from_str::<Limits>("sent = \"20Mbit/s\"").is_err());
    }
}
