//! An emulated wide-area network in user space.
//!
//! Each site is a network namespace whose only way out is a TUN device. One thread holds the other
//! ends of all devices and carries IP packets between them, with the delay, rates, queues and loss
//! of a [`Topology`]. Nothing of it needs netem, which many kernels lack.
//!
//! - [`Topology`]: the file format; [`Network`]: the same with every figure worked out.
//! - [`Emulator`]: a running network: processes at sites, counters, changes.
//! - [`Fabric`]: the network without I/O or clock, for tests in virtual time.
//!
//! `bench/docs/WAN.md` tells how to use it and how exact it is.

pub mod check;
pub mod cli;
mod control;
mod counters;
mod driver;
mod emulator;
mod event;
mod fabric;
mod loss;
mod netns;
mod network;
mod policer;
mod port;
mod probe;
mod schedule;
mod sleeper;
mod sys;
pub mod theory;
mod topology;
mod units;

pub use control::ask;
pub use counters::{Count, Counters, Lateness, PairCount, PairCounters, SiteCount, SiteCounters};
pub(crate) use emulator::TUN;
pub use emulator::{Emulator, Error};
pub use event::{Event, TimedEvent};
pub use fabric::Fabric;
pub use netns::clean_stale;
pub use network::{
    ADDRESSES_MAX, Link, Loss, Network, NetworkError, PolicerConfig, PortConfig, SITES_MAX, Site,
    SiteId,
};
pub use port::Packet;
pub use topology::{LinkSpec, Matrix, PairSpec, PolicerSpec, SiteSpec, Topology, TopologyError};
pub(crate) use units::optional_duration;
pub use units::{QueueLimit, Rate, UnitError, parse_duration, parse_size};
