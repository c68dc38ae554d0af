//! Failures that a real site cannot be made to show on cue, from a scripted server.
#![allow(clippy::unwrap_used, reason = "a test may fail here")]

mod answers;
mod exit_codes;
mod mesh;
mod pull;
mod push;
mod scripted;
