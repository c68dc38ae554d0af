//! Answers of work that takes long: one JSON object a line.

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;

/// Lines that wait for a slow client; progress beyond that is dropped, results wait.
const QUEUE_LINES: usize = 64;

/// Where a piece of work tells how it goes.
pub(super) struct Lines {
    lines: mpsc::Sender<String>,
}

impl Lines {
    pub(super) fn progress(&self, stage: &str, done: u64, total: u64, unit: &str) {
        let line = json!({"progress": {
            "stage": stage, format!("done_{unit}"): done, format!("total_{unit}"): total,
        }});
        // A client that is gone or slow does not stop the work.
        let _dropped = self.lines.try_send(line.to_string());
    }

    /// Whether the client has gone away.
    pub(super) fn is_gone(&self) -> bool {
        self.lines.is_closed()
    }

    /// A line that may be dropped.
    pub(super) fn line(&self, line: &serde_json::Value) {
        let _dropped = self.lines.try_send(line.to_string());
    }

    pub(super) fn result(&self, result: &serde_json::Value) {
        self.last(&json!({"result": result}));
    }

    pub(super) fn error(&self, error: &dyn std::fmt::Display, hint: &str) {
        self.last(&json!({"error": {"message": error.to_string(), "hint": hint}}));
    }

    fn last(&self, line: &serde_json::Value) {
        let _gone = self.lines.blocking_send(line.to_string());
    }
}

/// Runs `work` on a blocking thread and answers with what it tells.
pub(super) fn run(work: impl FnOnce(&Lines) + Send + 'static) -> Response {
    let (lines, receiver) = mpsc::channel(QUEUE_LINES);
    tokio::task::spawn_blocking(move || work(&Lines { lines }));
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|line| (line, receiver))
    })
    .map(|line| Ok::<_, std::convert::Infallible>(Bytes::from(line + "\n")));
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(stream),
    )
        .into_response()
}
