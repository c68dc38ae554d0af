//! Storing what a pull brings, in the order in which it came.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use vitrail_chunkstore::{Error, Lease, Store};
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::runs::Runs;

/// What goes to the store's writer, in the order in which it came.
pub(super) enum Job {
    /// A frame to be stored.
    Frame {
        peer: u64,
        request: u32,
        frame: Bytes,
        chunks: Vec<VerifiedChunk>,
        indexes: Vec<u32>,
        wanted: Vec<bool>,
    },
    /// A request has ended; passed on behind its frames.
    Done {
        peer: u64,
        request: u32,
        missing: Runs,
    },
}

/// What the store has done.
pub(super) enum Stored {
    Chunks {
        peer: u64,
        request: u32,
        indexes: Vec<u32>,
    },
    Done {
        peer: u64,
        request: u32,
        missing: Runs,
    },
    Committed,
    Failed(String),
}

/// Stores frames as they come, on a thread of its own, and commits at the end.
pub(super) fn store_frames(
    store: &Store,
    lease: Arc<Lease>,
    mut jobs: mpsc::Receiver<Job>,
    out: &mpsc::UnboundedSender<Stored>,
) {
    let run = || -> Result<(), Error> {
        let mut writer = store.writer(lease)?;
        while let Some(job) = jobs.blocking_recv() {
            let stored = match job {
                Job::Frame {
                    peer,
                    request,
                    frame,
                    chunks,
                    indexes,
                    wanted,
                } => {
                    writer.put_frame(&frame, chunks, &wanted)?;
                    Stored::Chunks {
                        peer,
                        request,
                        indexes,
                    }
                }
                Job::Done {
                    peer,
                    request,
                    missing,
                } => Stored::Done {
                    peer,
                    request,
                    missing,
                },
            };
            // A pull that has ended listens no more; what came is stored all the same.
            let _gone = out.send(stored);
        }
        writer.commit()
    };
    let last = match run() {
        Ok(()) => Stored::Committed,
        Err(error) => Stored::Failed(error.to_string()),
    };
    let _gone = out.send(last);
}
