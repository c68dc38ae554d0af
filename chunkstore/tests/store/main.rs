//! The chunk store from outside, one question a file.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod support;

mod concurrency;
mod damage;
mod dedup;
mod directory;
mod faults;
mod fixture;
mod gc;
mod lost_index;
mod model;
mod room;
mod round_trip;
mod scrub;
