//! Flows that send as much as they may, and what is seen of them over time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use quinn::Connection;
use quinn::congestion::{BbrConfig, CubicConfig};
use serde::Serialize;
use tokio::task::JoinSet;
use vitrail_proto::congestion::Class;
use vitrail_proto::wire::PEER_DNS_NAME;
use vitraild::peer::congestion::{Gauge, look_after};
use vitraild::peer::transport;

use super::lab::{Host, Lab, Received};

/// Streams of a flow: as many as the daemon opens to one holder.
const STREAMS: usize = 8;

/// Bytes by which quinn's controllers may be ahead; ours sets this as it needs.
const SEND_WINDOW: u64 = 16 << 20;

/// How often a flow is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// How long a handshake may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What governs how much a flow sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// The daemon's, as it stands.
    Vitrail(Class),
    /// quinn's CUBIC in place of ours.
    QuinnCubic,
    /// quinn's BBR in place of ours.
    QuinnBbr,
}

/// The daemon's, for a client that waits.
pub(super) const OURS: Sender = Sender::Vitrail(Class::Interactive);

impl Sender {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Vitrail(Class::Interactive) => "vitrail",
            Self::Vitrail(Class::Background) => "vitrail background",
            Self::QuinnCubic => "quinn cubic",
            Self::QuinnBbr => "quinn bbr",
        }
    }

    fn transport(self) -> quinn::TransportConfig {
        let mut config = transport::config();
        match self {
            Self::Vitrail(_) => {}
            Self::QuinnCubic => {
                config.congestion_controller_factory(Arc::new(CubicConfig::default()));
                config.send_window(SEND_WINDOW);
            }
            Self::QuinnBbr => {
                config.congestion_controller_factory(Arc::new(BbrConfig::default()));
                config.send_window(SEND_WINDOW);
            }
        }
        config
    }
}

/// A flow at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sample {
    /// Seconds since the run began.
    pub(super) at: f64,
    /// Payload that the receiver has read, bytes.
    pub(super) received: u64,
    /// Round trip of the newest packet acknowledged, seconds; 0 if it is not known.
    pub(super) rtt: f64,
    /// Bytes of UDP payload sent, and those of them that were declared lost.
    pub(super) sent: u64,
    pub(super) lost: u64,
    /// What our controller thinks; none of other senders.
    pub(super) control: Option<Control>,
}

/// Our controller at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Control {
    pub(super) state: &'static str,
    /// Bytes.
    pub(super) window: u64,
    /// Bytes per second.
    pub(super) rate: u64,
    /// Seconds; 0 if it is not known.
    pub(super) rtt_min: f64,
    pub(super) in_company: bool,
}

/// What was seen of a flow, in order of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Track(pub(super) Vec<Sample>);

impl Track {
    fn at(&self, time: Duration) -> Sample {
        let time = time.as_secs_f64();
        let after = self.0.partition_point(|sample| sample.at < time);
        let sample = self.0.get(after).or(self.0.last());
        sample.copied().unwrap_or_default()
    }

    /// Payload bits per second between two times.
    pub(super) fn rate(&self, from: Duration, to: Duration) -> f64 {
        let (from, to) = (self.at(from), self.at(to));
        (to.received - from.received) as f64 * 8.0 / (to.at - from.at).max(1e-9)
    }

    /// Share of the bytes sent between two times that had been sent before.
    pub(super) fn sent_twice(&self, from: Duration, to: Duration) -> f64 {
        let (from, to) = (self.at(from), self.at(to));
        (to.lost - from.lost) as f64 / ((to.sent - from.sent) as f64).max(1.0)
    }

    /// A quantile of the round trips between two times, and the smallest of all.
    pub(super) fn rtt(&self, from: Duration, to: Duration, quantile: f64) -> (f64, f64) {
        let within = from.as_secs_f64()..to.as_secs_f64();
        let samples = self.0.iter().filter(|sample| sample.rtt > 0.0);
        let least = samples.clone().map(|s| s.rtt).fold(f64::INFINITY, f64::min);
        let samples = samples.filter(|sample| within.contains(&sample.at));
        let mut rtts: Vec<f64> = samples.map(|sample| sample.rtt).collect();
        rtts.sort_by(f64::total_cmp);
        let rank = (rtts.len() as f64 * quantile) as usize;
        let found = rtts.get(rank.min(rtts.len().saturating_sub(1)));
        (found.copied().unwrap_or(f64::NAN), least)
    }

    /// When so much payload had been received.
    pub(super) fn time_of(&self, bytes: u64) -> Option<f64> {
        let sample = self.0.iter().find(|sample| sample.received >= bytes)?;
        Some(sample.at)
    }
}

/// A flow of QUIC. It ends when it is dropped.
pub(super) struct Flow {
    pub(super) connection: Connection,
    gauge: Option<Arc<Gauge>>,
    received: Received,
    track: Arc<parking_lot::Mutex<Track>>,
    _tasks: JoinSet<()>,
}

impl Flow {
    /// Connects and begins to send.
    pub(super) fn start(lab: &Lab, from: &Host, to: &Host, sender: Sender) -> Result<Self> {
        Self::with_streams(lab, from, to, sender, STREAMS)
    }

    /// As [`Flow::start`], with so many streams.
    pub(super) fn with_streams(
        lab: &Lab,
        from: &Host,
        to: &Host,
        sender: Sender,
        streams: usize,
    ) -> Result<Self> {
        let mut config = lab.client_config()?;
        config.transport_config(Arc::new(sender.transport()));
        let connection = lab.runtime.block_on(async {
            let dial = from
                .endpoint
                .connect_with(config, to.address, PEER_DNS_NAME)?;
            let connection = tokio::time::timeout(DIAL_TIMEOUT, dial).await;
            Ok::<_, anyhow::Error>(connection.context("no handshake in time")??)
        })?;
        let mut flow = Self {
            gauge: Gauge::of(&connection),
            connection,
            received: lab.flow()?,
            track: Arc::default(),
            _tasks: JoinSet::new(),
        };
        if let (Sender::Vitrail(class), Some(gauge)) = (sender, &flow.gauge) {
            gauge.set_class(class);
        }
        let _entered = lab.runtime.enter();
        let (connection, gauge) = (flow.connection.clone(), flow.gauge.clone());
        let looked_after = look_after(connection, gauge, lab.windows.clone(), |window| window);
        flow._tasks.spawn(looked_after);
        for _ in 0..streams {
            flow._tasks
                .spawn(send(flow.connection.clone(), flow.received.flow as u8));
        }
        let (connection, gauge, received, track, epoch) = (
            flow.connection.clone(),
            flow.gauge.clone(),
            flow.received.clone(),
            flow.track.clone(),
            lab.epoch,
        );
        flow._tasks.spawn(async move {
            let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
            loop {
                ticks.tick().await;
                let sample = sample(&connection, gauge.as_deref(), &received, epoch);
                track.lock().0.push(sample);
            }
        });
        Ok(flow)
    }

    /// What was seen so far. Fails when the connection has died.
    pub(super) fn track(&self) -> Result<Track> {
        match self.connection.close_reason() {
            None => Ok(self.track.lock().clone()),
            Some(error) => Err(error).context("the connection died"),
        }
    }

    /// Payload that the receiver has read, in bytes.
    pub(super) fn received(&self) -> u64 {
        self.received.bytes()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.connection.close(0u32.into(), b"over");
    }
}

async fn send(connection: Connection, flow: u8) {
    let data = bytes::Bytes::from_static(&[7; 64 * 1024]);
    let Ok((mut send, _recv)) = connection.open_bi().await else {
        return;
    };
    if send.write_all(&[flow]).await.is_ok() {
        while send.write_chunk(data.clone()).await.is_ok() {}
    }
}

fn sample(
    connection: &Connection,
    gauge: Option<&Gauge>,
    received: &Received,
    epoch: Instant,
) -> Sample {
    let stats = connection.stats();
    let snapshot = gauge.map(Gauge::snapshot);
    let newest = snapshot.and_then(|snapshot| snapshot.latest_rtt);
    Sample {
        at: epoch.elapsed().as_secs_f64(),
        received: received.bytes(),
        rtt: newest.unwrap_or_else(|| connection.rtt()).as_secs_f64(),
        sent: stats.udp_tx.bytes,
        lost: stats.path.lost_bytes,
        control: snapshot.map(|snapshot| Control {
            state: snapshot.state.name(),
            window: snapshot.window,
            rate: snapshot.rate,
            rtt_min: snapshot.min_rtt.unwrap_or_default().as_secs_f64(),
            in_company: snapshot.in_company,
        }),
    }
}
