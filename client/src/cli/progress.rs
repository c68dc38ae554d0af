//! Progress on stderr, for people at a terminal.

use std::io::{self, IsTerminal};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::{Output, clean};

const IN_BYTES: &str =
    "{msg} [{bar:32}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
const IN_PERCENT: &str = "{msg} [{bar:32}] {percent}% {eta}";

/// A bar on stderr. Clones are the same bar. It vanishes when the last one is dropped. Nothing is
/// shown if [`is_shown`] is false.
#[derive(Clone)]
pub(crate) struct Progress {
    bar: ProgressBar,
    output: Output,
}

impl Progress {
    /// For a transfer of so many bytes.
    pub(crate) fn of_bytes(output: Output, label: &str, total: u64) -> Self {
        Self::new(output, label, total, IN_BYTES)
    }

    /// For work in any unit.
    pub(crate) fn of_work(output: Output, label: &str, total: u64) -> Self {
        Self::new(output, label, total, IN_PERCENT)
    }

    /// For transfers one after the other, each of which begins with [`Self::restart`], beside other
    /// bars.
    pub(crate) fn of_bytes_among(bars: &MultiProgress, output: Output) -> Self {
        let mut progress = Self::of_bytes(output, "", 0);
        progress.bar = bars.add(progress.bar);
        progress
    }

    fn new(output: Output, label: &str, total: u64, template: &str) -> Self {
        let target = if is_shown(output) {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_style(style.progress_chars("=> "))
            .with_message(clean(label));
        Self { bar, output }
    }

    pub(crate) fn set_position(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Begins anew with a transfer of which some is done already, which says nothing of the rate.
    pub(crate) fn restart(&self, label: &str, done: u64, total: u64) {
        self.bar.reset();
        self.bar.set_message(clean(label));
        self.bar.set_length(total);
        self.bar.set_position(done);
        // The position is taken into account, and then the rate is measured from there.
        self.bar.tick();
        self.bar.reset_eta();
        self.bar.tick();
    }

    /// Says something above the bar.
    pub(crate) fn note(&self, message: &str) {
        self.bar.suspend(|| self.output.note(message));
    }
}

/// Whether somebody sees bars: not with `--json`, nor if stderr is not a terminal.
pub(crate) fn is_shown(output: Output) -> bool {
    !output.is_json() && io::stderr().is_terminal()
}
