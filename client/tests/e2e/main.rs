//! The command against real daemons.
#![allow(clippy::unwrap_used, reason = "a test may fail here")]

mod disk;
mod mesh;
mod one_site;
mod site;
