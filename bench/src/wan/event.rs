//! What can change while a network runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::{duration, optional_duration};

/// One change of a running network. Sites are meant by name, pairs in both directions, and every
/// value is relative to the topology, not to the change before it: halving twice is still a half.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Event {
    /// The rate of a pair becomes `factor` × the topology's. A packet that is being sent keeps its
    /// old rate, those that wait get the new one. The queue limit in bytes stays.
    PairRate {
        /// The two sites.
        between: [String; 2],
        /// Above 0; 1 restores the topology's rate.
        factor: f64,
    },
    /// Both rates of a site's access link become `factor` × the topology's.
    SiteRate {
        /// The site.
        site: String,
        /// Above 0; 1 restores the topology's rates.
        factor: f64,
    },
    /// The propagation delay of a pair changes for packets sent from now on; packets may overtake
    /// when it shrinks, as on a route change.
    Rtt {
        /// The two sites.
        between: [String; 2],
        /// The new round-trip time; absent restores the topology's.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            with = "optional_duration"
        )]
        rtt: Option<Duration>,
    },
    /// Loss of one pair, or of all when `between` is absent.
    Loss {
        /// The two sites.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        between: Option<[String; 2]>,
        /// The new loss; absent restores the topology's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<f64>,
        /// Mean length of a run of lost packets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        burst: Option<f64>,
    },
    /// The next packets from one site to another are lost, as long as the path needs for so many.
    Burst {
        /// Who sends them.
        from: String,
        /// Whom they do not reach.
        to: String,
        /// How many.
        packets: u32,
    },
    /// The site's access link is cut: what waits for it and what is under way to it is lost. Its
    /// processes run on.
    SiteDown {
        /// The site.
        site: String,
    },
    /// The site's access link works again.
    SiteUp {
        /// The site.
        site: String,
    },
    /// Sites of different groups cannot reach each other. Sites in no group form one together.
    Partition {
        /// Disjoint sets of sites.
        groups: Vec<Vec<String>>,
    },
    /// Ends any partition.
    Heal,
}

impl Event {
    /// The event that takes this one back, `None` for those that are themselves a way back.
    pub fn undo(&self) -> Option<Self> {
        Some(match self {
            Self::PairRate { between, .. } => Self::PairRate {
                between: between.clone(),
                factor: 1.0,
            },
            Self::SiteRate { site, .. } => Self::SiteRate {
                site: site.clone(),
                factor: 1.0,
            },
            Self::Rtt { between, .. } => Self::Rtt {
                between: between.clone(),
                rtt: None,
            },
            Self::Loss { between, .. } => Self::Loss {
                between: between.clone(),
                loss: None,
                burst: None,
            },
            Self::SiteDown { site } => Self::SiteUp { site: site.clone() },
            Self::Partition { .. } => Self::Heal,
            Self::Burst { .. } | Self::SiteUp { .. } | Self::Heal => return None,
        })
    }
}

/// An [`Event`] and when it happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimedEvent {
    /// Time after the events were armed.
    #[serde(with = "duration")]
    pub at: Duration,
    /// When given, [`Event::undo`] happens this much later.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_duration"
    )]
    pub lasts: Option<Duration>,
    /// What happens.
    pub event: Event,
}
