//! Progress on stderr, for people at a terminal.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output::Output;

const TEMPLATE: &str =
    "{msg} [{bar:32}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";

/// A bar that counts bytes. Clones are the same bar. It vanishes when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Progress {
    bar: ProgressBar,
    output: Output,
}

impl Progress {
    /// Shows nothing with `--json` or if stderr is not a terminal.
    pub(crate) fn new(output: Output, label: &str, total_bytes: u64) -> Self {
        let shown = !output.is_json() && io::stderr().is_terminal();
        let target = if shown {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is valid");
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target)
            .with_style(style.progress_chars("=> "))
            .with_message(label.to_owned());
        Self { bar, output }
    }

    pub(crate) fn set_position(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Starts another count under the same bar.
    pub(crate) fn restart(&self, label: &str, total_bytes: u64) {
        self.bar.set_message(label.to_owned());
        self.bar.set_length(total_bytes);
        self.bar.reset();
    }

    /// Says something above the bar.
    pub(crate) fn note(&self, message: &str) {
        self.bar.suspend(|| self.output.note(message));
    }
}
