//! Vitrail's core: what images are made of and how sites speak about them.
//!
//! This crate does no I/O. It has no sockets, files, clocks, threads or async runtime; time and
//! randomness are arguments. What it contains are values with exact encodings ([`manifest`],
//! [`frame`]) and state machines with `handle_*` in and `poll_*` out, so that the daemon and the
//! simulator run the same code.
//!
//! Everything that decodes foreign bytes goes through [`codec::Reader`], never panics, and never
//! sizes an allocation from a number that it read.

#![forbid(unsafe_code)]

pub mod budget;
pub mod chunk;
pub mod clock;
pub mod codec;
pub mod congestion;
pub mod fetch;
pub mod frame;
pub mod gossip;
pub mod id;
pub mod manifest;
pub mod random;
pub mod record;
pub mod runs;
pub mod wire;
