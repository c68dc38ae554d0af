//! Congestion control that fills thin, lossy links and yields to others.
//!
//! A [`Controller`] is told what was sent, acknowledged and lost, and answers with one number, the
//! [`window`](Controller::window): how many bytes may be on the path. It models the path by the
//! rate at which it delivers and by its smallest round trip; their product is what the path holds
//! without a queue, and the window is kept near it. A single loss therefore says nothing: only a
//! share of losses beyond what such paths lose at random lowers the window.
//!
//! No I/O and no clock: times are [`Duration`]s since an epoch of the caller's choice and may
//! stand still or step, randomness is a seed. `docs/TRANSPORT.md` explains the model, every
//! constant, and what was rejected.
//!
//! Order of calls, as a transport processes one acknowledgement: [`Controller::on_acked`] for each
//! packet, [`Controller::on_acks_ended`] once, then [`Controller::on_lost`] if the acknowledgement
//! showed losses. [`Controller::on_sent`] whenever packets leave.

mod controller;
mod deference;
mod delivery;
mod filter;
mod loss;
mod model;
mod rival;

use std::time::Duration;

pub use controller::Controller;

/// Whom a connection works for, and so whether it may hold its own against other traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// A client waits: takes a fair share of the path.
    #[default]
    Interactive,
    /// Preseed, repair, prefetch: takes what others leave, and steps back as soon as they queue.
    Background,
}

impl Class {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Background => "background",
        }
    }
}

/// What the controller is doing. The order is that of the numbers in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Doubling the window each round until the rate stops rising.
    Startup,
    /// Letting out the queue that start-up built.
    Drain,
    /// Holding the window near what the path carries.
    Cruise,
    /// Sending more for a moment, to see whether the path carries more.
    ProbeUp,
    /// Sending less for a moment, to empty the queue and see the smallest round trip.
    ProbeDown,
    /// Emptying the path to measure a round trip that has not been confirmed for long.
    ProbeRtt,
    /// Background: taking what others leave.
    Defer,
}

impl State {
    const ALL: [Self; 7] = [
        Self::Startup,
        Self::Drain,
        Self::Cruise,
        Self::ProbeUp,
        Self::ProbeDown,
        Self::ProbeRtt,
        Self::Defer,
    ];

    /// Its number in messages.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The state of a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its name in metrics and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Drain => "drain",
            Self::Cruise => "cruise",
            Self::ProbeUp => "probe_up",
            Self::ProbeDown => "probe_down",
            Self::ProbeRtt => "probe_rtt",
            Self::Defer => "defer",
        }
    }
}

/// What the controller knows, for metrics and for estimates of transfer times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is doing.
    pub state: State,
    /// Bytes that may be on the path.
    pub window: u64,
    /// Largest delivery rate of the last rounds, bytes per second; zero before the first sample.
    pub rate: u64,
    /// Smallest round trip of the last ten seconds; `None` before the first sample.
    pub min_rtt: Option<Duration>,
    /// Round trip of the newest packet acknowledged; `None` before the first sample.
    pub latest_rtt: Option<Duration>,
    /// Smoothed round trip (RFC 6298); `None` before the first sample.
    pub smoothed_rtt: Option<Duration>,
    /// Bytes acknowledged since the start.
    pub delivered: u64,
    /// Bytes declared lost since the start; what was lost is sent again.
    pub lost: u64,
    /// Another flow keeps a queue on the path.
    pub in_company: bool,
}

impl Snapshot {
    /// What the path carries, bytes per second, once that is known: start-up has found its end. Before
    /// that, the rate is that of the few bytes that there were to send.
    pub fn carries(&self) -> Option<u64> {
        (self.state != State::Startup && self.rate > 0).then_some(self.rate)
    }
}
