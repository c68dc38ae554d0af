//! What people see while a run goes on: one line that changes on a terminal, a few lines elsewhere.

use std::io::IsTerminal;
use std::time::Instant;

use super::log::Sample;
use crate::journal::Unit;
use crate::report::format_value;

/// Tells how far a run is, on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
    start: Instant,
    /// What is being done.
    head: String,
}

impl Progress {
    /// A run that begins now.
    pub(super) fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            start: Instant::now(),
            head: String::new(),
        }
    }

    /// The next case.
    pub(super) fn case(&mut self, number: usize, of: usize, name: &str) {
        self.head = format!("[{number}/{of}] {name}");
        if !self.terminal {
            eprintln!("{} {}", self.clock(), self.head);
        }
    }

    /// A step of a case.
    pub(super) fn step(&self, step: &str) {
        self.show(step);
    }

    /// How far the pulls are; `last` is the sample before.
    pub(super) fn pulling(&self, done: usize, of: usize, now: &Sample, last: Option<&Sample>) {
        if !self.terminal {
            return;
        }
        let bytes = |sample: &Sample| sample.rx.iter().sum::<u64>() as f64;
        let rate = last.map_or(0.0, |last| {
            (bytes(now) - bytes(last)) * 8e-6 / (now.at - last.at).max(1e-3)
        });
        self.show(&format!(
            "{done} of {of} pulls, {:.0} s, {}, {rate:.0} Mbit/s",
            now.at,
            format_value(bytes(now), Unit::Bytes),
        ));
    }

    /// How a case ended.
    pub(super) fn done(&self, what: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        eprintln!("{clear}{} {}: {what}", self.clock(), self.head);
    }

    fn show(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{} {}: {text}", self.clock(), self.head);
        }
    }

    /// Time since the start.
    fn clock(&self) -> String {
        let seconds = self.start.elapsed().as_secs();
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
