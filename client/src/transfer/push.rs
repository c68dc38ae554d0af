//! Upload of a file as a new image.

use std::fmt;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::image::{Image, NewImage};
use crate::transfer::digest::{self, Algorithm, Feed};
use crate::transfer::{Mismatch, check_digests, stated_digests};

/// Bytes read from the file at a time.
const READ_LEN: usize = 1 << 20;

/// How to push.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Keep the record when its data cannot be uploaded, to try again by hand.
    pub keep: bool,
    /// Hash the bytes that are sent and compare with what the site says it received.
    pub verify: bool,
    /// Ends the push early; the record is treated as after any failure.
    pub cancel: CancellationToken,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            keep: false,
            verify: true,
            cancel: CancellationToken::new(),
        }
    }
}

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The file cannot be opened. The site was not asked for anything.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// The record could not be created.
    #[error(transparent)]
    Create(Error),

    /// The record was created, but did not become the image of this file.
    #[error("{failure} ({record})")]
    Upload {
        /// What happened.
        failure: UploadFailure,
        /// What became of the record.
        record: RecordFate,
    },
}

/// Why a created record did not become an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadFailure {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] Error),
    /// The site has other bytes than were sent.
    #[error("the site received damaged data: {0}")]
    Damaged(#[from] Mismatch),
    /// The site has another number of bytes than were sent.
    #[error("the site received {found:?} bytes instead of {sent}")]
    Size {
        /// Size of the file.
        sent: u64,
        /// Size of the image.
        found: Option<u64>,
    },
    /// The caller ended it.
    #[error("cancelled")]
    Cancelled,
}

/// What became of the record of a failed push.
#[derive(Debug)]
pub enum RecordFate {
    /// It was deleted.
    Deleted,
    /// It was kept, as asked.
    Kept {
        /// Its id.
        id: String,
    },
    /// It should have been deleted, but the site did not do it.
    Left {
        /// Its id.
        id: String,
        /// Why not.
        error: Error,
    },
}

impl fmt::Display for RecordFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted => write!(f, "its record was deleted"),
            Self::Kept { id } => write!(f, "its record {id} was kept"),
            Self::Left { id, error } => {
                write!(
                    f,
                    "its record {id} is left over, as deleting failed: {error}"
                )
            }
        }
    }
}

/// Creates `image` and uploads the file `source` as its data; answers the active image.
///
/// `on_position` hears how many bytes have been handed to the connection. The upload is not
/// repeated when it breaks, as the site would need all bytes again.
///
/// # Errors
/// [`PushError`]; the half-made record is deleted unless `keep` is set.
pub async fn push(
    client: &Client,
    image: &NewImage,
    source: &Path,
    options: &PushOptions,
    on_position: impl Fn(u64) + Send + Sync + 'static,
) -> Result<Image, PushError> {
    let open_error = |error| PushError::Open {
        path: source.to_owned(),
        source: error,
    };
    let mut file = File::open(source).await.map_err(open_error)?;
    // Unlike the metadata's length this is right for block devices too.
    let size = file.seek(SeekFrom::End(0)).await.map_err(open_error)?;
    file.rewind().await.map_err(open_error)?;

    let record = client
        .images()
        .create(image)
        .await
        .map_err(PushError::Create)?;
    let upload = upload(client, &record.id, file, size, options.verify, on_position);
    let uploaded = options.cancel.run_until_cancelled(upload).await;
    match uploaded.unwrap_or(Err(UploadFailure::Cancelled)) {
        Ok(image) => Ok(image),
        Err(failure) => {
            let record = clean_up(client, record.id, options.keep).await;
            Err(PushError::Upload { failure, record })
        }
    }
}

async fn upload(
    client: &Client,
    id: &str,
    file: File,
    size: u64,
    verify: bool,
    on_position: impl Fn(u64) + Send + Sync + 'static,
) -> Result<Image, UploadFailure> {
    let algorithms = [Algorithm::Md5, Algorithm::Sha512]
        .into_iter()
        .filter(|_| verify);
    let (feed, hashing) = digest::start(algorithms);
    client
        .images()
        .upload(id, size, read_exactly(file, size, feed, on_position))
        .await?;
    let image = client.images().show(id).await?;
    if image.size != Some(size) {
        return Err(UploadFailure::Size {
            sent: size,
            found: image.size,
        });
    }
    check_digests(&stated_digests(&image), &hashing.finish().await)?;
    Ok(image)
}

/// The first `size` bytes of `file`, hashed on the way. A file that grows meanwhile is cut there;
/// one that shrinks is an error.
fn read_exactly(
    file: File,
    size: u64,
    feed: Feed,
    on_position: impl Fn(u64) + Send + Sync + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let reader = ReaderStream::with_capacity(file.take(size), READ_LEN);
    stream::try_unfold((reader, feed, on_position, 0), move |state| async move {
        let (mut reader, feed, on_position, mut position) = state;
        match reader.next().await {
            Some(piece) => {
                let piece = piece?;
                feed.push(&piece).await;
                position += piece.len() as u64;
                on_position(position);
                Ok(Some((piece, (reader, feed, on_position, position))))
            }
            None if position < size => {
                let reason = format!("the file ended at byte {position} of {size}");
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason))
            }
            None => Ok(None),
        }
    })
}

async fn clean_up(client: &Client, id: String, keep: bool) -> RecordFate {
    if keep {
        return RecordFate::Kept { id };
    }
    match client.images().delete(&id).await {
        Ok(()) => RecordFate::Deleted,
        Err(error) if error.status() == Some(404) => RecordFate::Deleted,
        Err(error) => RecordFate::Left { id, error },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn read(len: usize, size: u64) -> io::Result<usize> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![1; len]).unwrap();
        let (feed, _hashing) = digest::start([]);
        let file = File::open(file.path()).await.unwrap();
        let pieces: Vec<_> = read_exactly(file, size, feed, |_| {}).collect().await;
        pieces
            .into_iter()
            .map(|piece| piece.map(|piece| piece.len()))
            .sum()
    }

    #[tokio::test]
    async fn a_file_that_grows_is_cut_and_one_that_shrinks_is_an_error() {
        let len = 3 * READ_LEN / 2;
        assert_eq!(read(len, len as u64).await.unwrap(), len);
        assert_eq!(read(len + 1, len as u64).await.unwrap(), len);
        let error = read(len - 1, len as u64).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
