//! What can go wrong in the store, by what a caller can do about it.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;
use vitrail_proto::chunk::ChunkError;
use vitrail_proto::codec::DecodeError;
use vitrail_proto::id::{ChunkId, ManifestId};

use crate::pack::PackId;

/// Result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a store operation failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk, or the configured capacity, has no room. Nothing was lost; free space and retry.
    #[error("the store is full: {0}")]
    Full(String),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the file.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The index refused.
    #[error("index: {0}")]
    Index(String),
    /// Another process has the store open.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// The directory is not a store that this program knows.
    #[error("{path}: {why}")]
    Unsupported {
        /// The data directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The store does not have a chunk that was asked for.
    #[error("chunk {0} is not in the store")]
    MissingChunk(ChunkId),
    /// The store does not have a manifest that was asked for.
    #[error("manifest {0} is not in the store")]
    MissingManifest(ManifestId),
    /// The store's bytes of a manifest are not that manifest.
    #[error("manifest {id} is damaged: {reason}")]
    DamagedManifest {
        /// The manifest.
        id: ManifestId,
        /// What is wrong.
        reason: String,
    },
    /// An earlier sync failed, so nobody knows what the disk holds; nothing is written until the store
    /// is opened again. Reading goes on.
    #[error("an earlier sync of a pack failed; nothing is written until the store is opened again")]
    Poisoned,
    /// The caller wanted the work to end.
    #[error("stopped before the end")]
    Stopped,
    /// Bytes on disk are not what was written. The chunks in them have been taken out of the index.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A value cannot be encoded or decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Bytes that should be a chunk are not.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A thread of this operation panicked, which is a bug.
    #[error("internal error: {0} panicked")]
    Panicked(&'static str),
}

/// A place in a pack whose bytes are wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Damage {
    /// The pack.
    pub pack: PackId,
    /// Offset of the entry in the pack, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pack {} is damaged at offset {}: {}",
            self.pack, self.offset, self.reason
        )
    }
}

impl Error {
    /// Wraps an I/O error; a lack of space becomes [`Error::Full`].
    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let what = what.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::Full(format!("{what}: {source}"))
            }
            _ => Self::Io { what, source },
        }
    }
}
