//! Progress on stderr, for people at a terminal.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::Output;

const IN_BYTES: &str =
    "{msg} [{bar:32}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
const IN_PERCENT: &str = "{msg} [{bar:32}] {percent}% {eta}";

/// A bar on stderr. Clones are the same bar. It vanishes when the last one is dropped. Nothing is
/// shown with `--json` or if stderr is not a terminal.
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

    fn new(output: Output, label: &str, total: u64, template: &str) -> Self {
        let shown = !output.is_json() && io::stderr().is_terminal();
        let target = if shown {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_style(style.progress_chars("=> "))
            .with_message(label.to_owned());
        Self { bar, output }
    }

    pub(crate) fn set_position(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Says something above the bar.
    pub(crate) fn note(&self, message: &str) {
        self.bar.suspend(|| self.output.note(message));
    }
}
