//! Download of an image to a file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::image::{ByteRange, Image};
use crate::transfer::digest::Digests;
use crate::transfer::part::{PartWriter, open_locked, part_path};
use crate::transfer::retry::{Backoff, RetryPolicy};
use crate::transfer::{Algorithm, Mismatch, check_digests, stated_digests};

/// How to pull.
#[derive(Clone, Copy, Debug)]
pub struct PullOptions {
    /// Replace an existing file.
    pub overwrite: bool,
    /// Hash the bytes and compare with what the image states. Without it an old part file is not
    /// gone on with either, as nothing would show that it belongs to this image.
    pub verify: bool,
    /// What to do when the connection breaks.
    pub retry: RetryPolicy,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            overwrite: false,
            verify: true,
            retry: RetryPolicy::default(),
        }
    }
}

/// What happens during a pull.
#[derive(Debug)]
pub enum PullEvent<'a> {
    /// This many bytes of the image, counted from its start, are in the part file.
    Position(u64),
    /// An old part file is gone on with from this byte.
    Resumed(u64),
    /// The old part file was not of this image; all is fetched again.
    Restarted,
    /// The connection failed and is made again after a wait.
    Retrying {
        /// What happened.
        error: &'a Error,
        /// How long the wait is.
        delay: Duration,
    },
}

/// What a pull did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Size of the file in bytes.
    pub size: u64,
    /// Bytes that came over the network, repetitions included.
    pub received: u64,
    /// Hashes that were compared and found right; empty with `verify: false`, or if the image
    /// states none that is known here.
    pub verified: Vec<Algorithm>,
}

/// Why a pull failed. The part file stays, and the next pull goes on with it, except where noted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// A request failed, more often than the policy allows.
    #[error(transparent)]
    Request(#[from] Error),

    /// The image has no data to pull. No part file was made.
    #[error("image {id} is {status}, not active")]
    NotActive {
        /// Its id.
        id: String,
        /// Its status.
        status: String,
    },

    /// The output exists. It was not touched.
    #[error("{} exists", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },

    /// The output is a directory or a device, which a file cannot replace.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The output.
        path: PathBuf,
    },

    /// Another pull writes the same part file.
    #[error("another pull is writing {}", path.display())]
    Busy {
        /// The part file.
        path: PathBuf,
    },

    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The part file or the output.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// The bytes are not those of the image. The part file was removed.
    #[error("image {id} arrived damaged: {mismatch}")]
    Damaged {
        /// Its id.
        id: String,
        /// The hash that shows it.
        mismatch: Mismatch,
    },
}

/// Pulls the data of `image` to `output`.
///
/// The bytes go to `output.part`, sparse, are hashed on the way, and take the name `output` only
/// when all of them are there, verified and synced to disk. An old part file is hashed and gone on
/// with; if the whole then is not the image, it is fetched anew once.
///
/// # Errors
/// [`PullError`], each variant saying what is left on disk.
pub async fn pull(
    client: &Client,
    image: &Image,
    output: &Path,
    options: PullOptions,
    on_event: &(dyn Fn(PullEvent<'_>) + Send + Sync),
) -> Result<Pulled, PullError> {
    let size = match image.size {
        Some(size) if image.is_active() => size,
        _ => {
            let (id, status) = (image.id.clone(), image.status.clone());
            return Err(PullError::NotActive { id, status });
        }
    };
    check_output(output, options.overwrite)?;
    let stated = if options.verify {
        stated_digests(image)
    } else {
        Digests::new()
    };
    let path = part_path(output);
    let write_error = |source| PullError::Write {
        path: path.clone(),
        source,
    };

    let mut part = open_locked(&path)
        .map_err(write_error)?
        .ok_or_else(|| PullError::Busy { path: path.clone() })?;
    let mut kept = match part.metadata().map_err(write_error)?.len() {
        len if len <= size && !stated.is_empty() => len,
        _ => 0,
    };
    if kept > 0 {
        on_event(PullEvent::Resumed(kept));
    }
    let mut transfer = Transfer {
        client,
        id: &image.id,
        size,
        retry: options.retry,
        received: 0,
        on_event,
    };
    let verified = loop {
        let algorithms = stated.keys().copied();
        let writer = PartWriter::open(part, kept, algorithms, |position| {
            on_event(PullEvent::Position(position));
        });
        let (file, digests) = transfer
            .fill(writer.await.map_err(write_error)?, &path)
            .await?;
        part = file;
        match check_digests(&stated, &digests) {
            Ok(verified) => break verified,
            Err(_) if kept > 0 => {
                on_event(PullEvent::Restarted);
                kept = 0;
            }
            Err(mismatch) => {
                fs::remove_file(&path).map_err(write_error)?;
                return Err(PullError::Damaged {
                    id: image.id.clone(),
                    mismatch,
                });
            }
        }
    };
    check_output(output, options.overwrite)?;
    commit(part, &path, output).await.map_err(write_error)?;
    Ok(Pulled {
        size,
        received: transfer.received,
        verified,
    })
}

/// Whether a file may take this name. Asked before the work, and again after it.
fn check_output(output: &Path, overwrite: bool) -> Result<(), PullError> {
    let path = || output.to_owned();
    match fs::metadata(output) {
        Ok(metadata) if !metadata.is_file() => Err(PullError::NotAFile { path: path() }),
        Ok(_) if !overwrite => Err(PullError::Exists { path: path() }),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PullError::Write {
            path: path(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Makes the part file the output; the bytes are on disk before the name is.
async fn commit(part: File, path: &Path, output: &Path) -> io::Result<()> {
    let (path, output) = (path.to_owned(), output.to_owned());
    let committed = spawn_blocking(move || {
        part.sync_all()?;
        fs::rename(path, output)
    });
    committed
        .await
        .expect("the committing thread does not panic")
}

/// The fetching of one image, over as many connections as it takes.
struct Transfer<'a> {
    client: &'a Client,
    id: &'a str,
    size: u64,
    retry: RetryPolicy,
    received: u64,
    on_event: &'a (dyn Fn(PullEvent<'_>) + Send + Sync),
}

impl Transfer<'_> {
    /// Fetches what `writer` lacks, and ends it. If that fails, the part file at `path` has the
    /// length from which to go on, or is gone if it is empty.
    async fn fill(
        &mut self,
        mut writer: PartWriter,
        path: &Path,
    ) -> Result<(File, Digests), PullError> {
        let write_error = |source| PullError::Write {
            path: path.to_owned(),
            source,
        };
        let fetched = self.fetch(&mut writer).await;
        let nothing_came = writer.position() == 0;
        let written = writer.finish().await.map_err(write_error)?;
        if fetched.is_err() && nothing_came {
            fs::remove_file(path).map_err(write_error)?;
        }
        fetched?;
        Ok(written)
    }

    /// A failed write ends this early and without an error: the writer has that.
    async fn fetch(&mut self, writer: &mut PartWriter) -> Result<()> {
        let mut backoff = Backoff::new(self.retry);
        while writer.position() < self.size {
            let before = self.received;
            let Err(error) = self.attempt(writer).await else {
                break;
            };
            let moved = self.received - before;
            let on_retry =
                |error: &Error, delay| (self.on_event)(PullEvent::Retrying { error, delay });
            backoff.wait(error, moved, on_retry).await?;
        }
        Ok(())
    }

    /// One connection's worth.
    async fn attempt(&mut self, writer: &mut PartWriter) -> Result<()> {
        let start = writer.position();
        let range = (start > 0).then_some(ByteRange { start, end: None });
        let mut download = self.client.images().download(self.id, range).await?;
        let url = download.url().to_owned();
        if download.total() != self.size || download.start() > start {
            return Err(self.malformed(url));
        }
        // A proxy that ignores Range sends all from the start again.
        let mut known = start - download.start();
        while let Some(mut piece) = download.next().await? {
            self.received += piece.len() as u64;
            let again = known.min(piece.len() as u64);
            known -= again;
            let piece = piece.split_off(again as usize);
            if writer.position() + piece.len() as u64 > self.size {
                return Err(self.malformed(url));
            }
            if writer.write(piece).await.is_err() {
                return Ok(());
            }
            (self.on_event)(PullEvent::Position(writer.position()));
        }
        if writer.position() < self.size {
            return Err(Error::Interrupted {
                url,
                reason: "the data ended early".to_owned(),
            });
        }
        Ok(())
    }

    fn malformed(&self, url: String) -> Error {
        Error::Malformed {
            url,
            reason: format!("not the {} bytes of the image", self.size),
        }
    }
}
