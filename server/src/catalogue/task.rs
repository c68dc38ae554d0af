//! Tasks: long work on an image, as the API tells of it. They are fields of the image's record, so every site knows them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Most tasks of an image that are remembered; the oldest go first.
pub(super) const TASKS_MAX: usize = 8;
/// Milliseconds for which an ended task is remembered: 48 hours, as Glance's default.
const TASK_KEEP_MS: u64 = 48 * 3600 * 1000;

/// Work on an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: Uuid,
    /// What kind of work.
    pub kind: TaskKind,
    /// How far it is.
    pub status: TaskStatus,
    /// Project that it works for.
    pub owner: Option<String>,
    /// User who asked for it.
    pub user: Option<String>,
    /// Id of the request that asked for it.
    pub request: String,
    /// What was asked for, as the API shows it.
    pub input: serde_json::Value,
    /// How it went.
    pub message: String,
    /// Milliseconds since 1970.
    pub created_at: u64,
    /// Milliseconds since 1970.
    pub updated_at: u64,
    /// Milliseconds since 1970; none while it runs.
    pub expires_at: Option<u64>,
}

/// What kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// An import, or a copy to more stores.
    ApiImageImport,
    /// Bytes taken over from a location.
    LocationImport,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// It runs.
    Processing,
    /// It ended well.
    Success,
    /// It did not.
    Failure,
}

impl TaskKind {
    /// The API's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiImageImport => "api_image_import",
            Self::LocationImport => "location_import",
        }
    }
}

impl TaskStatus {
    /// The API's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "processing",
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

impl Task {
    /// Whether it is to be forgotten.
    pub fn has_expired(&self, now_ms: u64) -> bool {
        self.expires_at.is_some_and(|at| at <= now_ms)
    }

    /// The task as it is when it has ended.
    pub fn ended(&self, status: TaskStatus, message: String, now_ms: u64) -> Self {
        Self {
            status,
            message,
            updated_at: now_ms,
            expires_at: Some(now_ms.saturating_add(TASK_KEEP_MS)),
            ..self.clone()
        }
    }
}
