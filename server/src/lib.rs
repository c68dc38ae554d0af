//! The daemon of a Vitrail site.
//!
//! [`daemon::Daemon`] brings up one site: the chunk store, the [`catalogue`] of image records, the Image API
//! ([`glance`]) for hypervisors and OpenStack clients, and the [`admin`] API for operators. [`inspect`] decides whether
//! uploaded bytes are what they are said to be.

pub mod admin;
pub mod auth;
pub mod catalogue;
pub mod collector;
pub mod config;
pub mod content;
pub mod daemon;
pub mod glance;
pub mod inspect;
pub mod limits;
pub mod metrics;
pub mod peer;
pub mod scrubber;
mod tls;
