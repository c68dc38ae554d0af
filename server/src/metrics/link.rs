//! What is seen of the links to other sites.
//!
//! Labels are names of peers, as many as there may be links, and the controller's few states.

use prometheus::{GaugeVec, IntCounterVec, Opts, Registry};

/// Metrics by peer.
pub(crate) struct LinkMetrics {
    rate: GaugeVec,
    rtt: GaugeVec,
    state: GaugeVec,
    packets: IntCounterVec,
    sent_twice: IntCounterVec,
}

/// What one link shows at present.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkGauges {
    /// Bytes per second.
    pub(crate) rate: Option<u64>,
    /// Seconds.
    pub(crate) rtt: f64,
    /// Seconds.
    pub(crate) rtt_min: Option<f64>,
    /// What the congestion controller is doing.
    pub(crate) state: &'static str,
}

/// What a link has done, or what it has done since it was last counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LinkCounts {
    pub(crate) packets_sent: u64,
    pub(crate) packets_lost: u64,
    pub(crate) bytes_lost: u64,
}

impl LinkCounts {
    /// What came to it since an earlier count.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            packets_sent: self.packets_sent.saturating_sub(earlier.packets_sent),
            packets_lost: self.packets_lost.saturating_sub(earlier.packets_lost),
            bytes_lost: self.bytes_lost.saturating_sub(earlier.bytes_lost),
        }
    }
}

impl LinkMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<_, prometheus::Error> {
            let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<_, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        Ok(Self {
            rate: gauge(
                "vitrail_peer_rate_bytes",
                "Bytes per second that the path to a peer was seen to carry lately",
                &["peer"],
            )?,
            rtt: gauge(
                "vitrail_peer_rtt_seconds",
                "Round trip to a peer: smoothed, and the smallest seen lately",
                &["peer", "kind"],
            )?,
            state: gauge(
                "vitrail_peer_state",
                "1 for what the congestion controller of the link is doing",
                &["peer", "state"],
            )?,
            packets: counter(
                "vitrail_peer_packets_total",
                "QUIC packets to a peer, sent and declared lost",
                &["peer", "outcome"],
            )?,
            sent_twice: counter(
                "vitrail_peer_sent_twice_bytes_total",
                "Bytes to a peer that were declared lost, and so sent again",
                &["peer"],
            )?,
        })
    }

    /// Sets the gauges of all links that are open; those of others vanish.
    pub(crate) fn set_links<'a>(&self, links: impl Iterator<Item = (&'a str, LinkGauges)>) {
        self.rate.reset();
        self.rtt.reset();
        self.state.reset();
        for (peer, gauges) in links {
            if let Some(rate) = gauges.rate {
                self.rate.with_label_values(&[peer]).set(rate as f64);
            }
            let rtt = |kind| self.rtt.with_label_values(&[peer, kind]);
            rtt("smoothed").set(gauges.rtt);
            if let Some(min) = gauges.rtt_min {
                rtt("min").set(min);
            }
            self.state.with_label_values(&[peer, gauges.state]).set(1.0);
        }
    }

    /// Adds what a link has done since it was last counted.
    pub(crate) fn count(&self, peer: &str, new: LinkCounts) {
        let packets = |outcome| self.packets.with_label_values(&[peer, outcome]);
        packets("sent").inc_by(new.packets_sent);
        packets("lost").inc_by(new.packets_lost);
        self.sent_twice
            .with_label_values(&[peer])
            .inc_by(new.bytes_lost);
    }
}
