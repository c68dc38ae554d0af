//! How a command ends: exit codes, and error messages with their hints.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;
use std::process::ExitCode;

use serde_json::json;
use vitrail::Error;
use vitrail::ca::CaError;
use vitrail::transfer::{PullError, PushError, UploadFailure};

use crate::cli::output::Output;

/// Exit status of the process. Scripts rely on the codes: they never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    Failed,
    Usage,
    NotFound,
    Refused,
    Unreachable,
    Damaged,
    Incomplete,
    Interrupted,
}

impl Exit {
    pub(crate) const ALL: [Self; 9] = [
        Self::Success,
        Self::Failed,
        Self::Usage,
        Self::NotFound,
        Self::Refused,
        Self::Unreachable,
        Self::Damaged,
        Self::Incomplete,
        Self::Interrupted,
    ];

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Unreachable => 5,
            Self::Damaged => 6,
            Self::Incomplete => 7,
            // What a shell says of a process that Ctrl-C has ended.
            Self::Interrupted => 130,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Success => "done",
            Self::Failed => "the operation failed",
            Self::Usage => "wrong arguments",
            Self::NotFound => "no such image or site",
            Self::Refused => "the site refused the request (4xx)",
            Self::Unreachable => {
                "no connection, or it broke, or the site is in trouble (5xx): try again later"
            }
            Self::Damaged => "verification failed: data are damaged or missing",
            Self::Incomplete => "not every site holds every image",
            Self::Interrupted => "interrupted by a signal",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table of exit codes for `--help`.
pub(crate) fn help() -> String {
    let mut help = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        writeln!(help, "{:>5}  {}", exit.code(), exit.meaning()).expect("a string takes all");
    }
    help
}

/// Arguments that only turn out to be wrong when the command looks at its files.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct UsageError {
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// Tells the user of an error, and chooses the exit code.
pub(crate) fn report(error: &anyhow::Error, output: Output) -> Exit {
    if is_broken_pipe(error) {
        // Whoever read our output has seen enough, as `head` does.
        return Exit::Success;
    }
    let (exit, hint) = classify(error);
    let message = format!("{error:#}");
    if output.is_json() {
        let code = exit.code();
        eprintln!(
            "{}",
            json!({"error": {"message": message, "hint": hint, "exit": code}})
        );
    } else {
        eprintln!("error: {message}");
        if let Some(hint) = hint {
            eprintln!("hint: {hint}");
        }
    }
    exit
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn classify(error: &anyhow::Error) -> (Exit, Option<Cow<'_, str>>) {
    if let Some(error) = error.downcast_ref::<Error>() {
        request(error)
    } else if let Some(error) = error.downcast_ref::<UsageError>() {
        (Exit::Usage, Some(error.hint.as_str().into()))
    } else if let Some(error) = error.downcast_ref::<PullError>() {
        pull(error)
    } else if let Some(error) = error.downcast_ref::<PushError>() {
        push(error)
    } else if let Some(error) = error.downcast_ref::<CaError>() {
        ca(error)
    } else {
        (Exit::Failed, None)
    }
}

fn request(error: &Error) -> (Exit, Option<Cow<'_, str>>) {
    let exit = match error {
        Error::NoSuchImage { .. } => Exit::NotFound,
        _ if error.status() == Some(404) => Exit::NotFound,
        _ if error.is_transient() => Exit::Unreachable,
        Error::Api(_) => Exit::Refused,
        _ => Exit::Failed,
    };
    (exit, error.hint())
}

fn pull(error: &PullError) -> (Exit, Option<Cow<'_, str>>) {
    match error {
        PullError::Request(error) => request(error),
        PullError::Exists { .. } => (Exit::Failed, Some("--force replaces it".into())),
        PullError::NotActive { status, .. } if status == "queued" || status == "saving" => (
            Exit::Failed,
            Some("its upload goes on, or word of its end has not reached this site yet".into()),
        ),
        PullError::Damaged { .. } => (Exit::Damaged, Some("pull it again".into())),
        _ => (Exit::Failed, None),
    }
}

fn push(error: &PushError) -> (Exit, Option<Cow<'_, str>>) {
    match error {
        PushError::Create(error) => request(error),
        PushError::Upload { failure, .. } => match failure {
            UploadFailure::Request(error) => request(error),
            UploadFailure::Damaged(_) | UploadFailure::Size { .. } => (Exit::Damaged, None),
            UploadFailure::Cancelled => (Exit::Interrupted, None),
            _ => (Exit::Failed, None),
        },
        _ => (Exit::Failed, None),
    }
}

fn ca(error: &CaError) -> (Exit, Option<Cow<'_, str>>) {
    match error {
        CaError::Name { .. } => (
            Exit::Usage,
            Some("use 1 to 63 letters, digits, '-', '_' or '.'; not `ca`".into()),
        ),
        CaError::Validity { .. } => (Exit::Usage, None),
        CaError::Exists { .. } => (
            Exit::Failed,
            Some("remove it first if it is to be replaced".into()),
        ),
        _ => (Exit::Failed, None),
    }
}
