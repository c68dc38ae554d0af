//! The part file of a pull: written in order, hashed on the way, renamed when it is whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::io::ReaderStream;

use crate::transfer::digest::{self, Algorithm, Digests, Feed, Hashing};
use crate::transfer::sparse::SparseWriter;

/// Pieces that may wait for the disk.
const QUEUE_LEN: usize = 16;

/// Bytes read at a time when an old part is hashed again.
const READ_LEN: usize = 1 << 20;

/// `FILE.part`, next to the file that it becomes.
pub(super) fn part_path(output: &Path) -> PathBuf {
    let mut path = OsString::from(output);
    path.push(".part");
    path.into()
}

/// Opens the part file, alone: a second pull to the same output would mix two streams.
/// `None` if another one holds it.
pub(super) fn open_locked(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    match file.try_lock() {
        // Meanwhile the other pull may have ended, and this file be its output.
        Ok(()) => Ok(is_still_at(&file, path)?.then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    Ok(fs::metadata(path)
        .is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())))
}

/// A part file that is being filled.
#[derive(Debug)]
pub(super) struct PartWriter {
    pieces: mpsc::Sender<Bytes>,
    writer: JoinHandle<io::Result<File>>,
    feed: Feed,
    hashing: Hashing,
    position: u64,
}

impl PartWriter {
    /// Goes on after the first `kept` bytes of `file`, which are hashed again; `on_position`
    /// hears how far that is.
    pub(super) async fn open(
        file: File,
        kept: u64,
        algorithms: impl IntoIterator<Item = Algorithm>,
        on_position: impl Fn(u64),
    ) -> io::Result<Self> {
        file.set_len(kept)?;
        let (feed, hashing) = digest::start(algorithms);
        let mut position = 0;
        let reader = tokio::fs::File::from_std(file.try_clone()?);
        let mut old = ReaderStream::with_capacity(reader, READ_LEN);
        while let Some(piece) = old.next().await {
            let piece = piece?;
            feed.push(&piece).await;
            position += piece.len() as u64;
            on_position(position);
        }
        let (pieces, mut queue) = mpsc::channel::<Bytes>(QUEUE_LEN);
        let writer = spawn_blocking(move || {
            let mut writer = SparseWriter::new(file, position);
            while let Some(piece) = queue.blocking_recv() {
                writer.write(&piece)?;
            }
            writer.finish()
        });
        Ok(Self {
            pieces,
            writer,
            feed,
            hashing,
            position,
        })
    }

    /// Bytes of the image that have been taken.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Takes the next piece; waits while disk or hashes lag behind. After a failed write it takes
    /// nothing more: [`Self::finish`] has the error.
    pub(super) async fn write(&mut self, piece: Bytes) -> Result<(), WriterGone> {
        self.feed.push(&piece).await;
        self.position += piece.len() as u64;
        self.pieces.send(piece).await.map_err(|_| WriterGone)
    }

    /// Waits until all is written, and answers the file with its hashes.
    pub(super) async fn finish(self) -> io::Result<(File, Digests)> {
        drop((self.pieces, self.feed));
        let file = self
            .writer
            .await
            .expect("the writer thread does not panic")?;
        Ok((file, self.hashing.finish().await))
    }
}

/// The writing thread has ended with an error.
#[derive(Debug)]
pub(super) struct WriterGone;
