//! Images' bytes, wherever they are: in the store, or at other sites.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use uuid::Uuid;
use vitrail_chunkstore::{Error, ImageReader, Store, Unit};
use vitrail_proto::id::ManifestId;
use vitrail_proto::record::Data;

use crate::peer::{Interest, Peers};

/// Reads of one unit before it is given up: each but the first comes after a fetch of what was missing.
const TRIES: u32 = 8;

/// Why an image cannot be read.
#[derive(Debug, Error)]
pub enum ContentError {
    /// This site does not have it whole, and no other can bring it.
    #[error("{0}")]
    Unreachable(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Where images are read.
#[derive(Clone)]
pub struct Content {
    store: Store,
    peers: Option<Arc<Peers>>,
}

impl Content {
    /// Reads from the store and, in a mesh, from other sites.
    pub fn new(store: Store, peers: Option<Arc<Peers>>) -> Self {
        Self { store, peers }
    }

    /// The store of this site.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The other sites, in a mesh.
    pub fn peers(&self) -> Option<&Arc<Peers>> {
        self.peers.as_ref()
    }

    /// Opens an image with these data. `whole` tells whether all of it is going to be read.
    pub async fn open(
        &self,
        data: &Data,
        image: Uuid,
        whole: bool,
    ) -> Result<ContentReader, ContentError> {
        let id = data.manifest;
        if let Some(peers) = &self.peers {
            // What it leases is kept by the reader's own lease from here on.
            let lease = self.store.lease();
            peers
                .manifest_of(image, data, &lease)
                .await
                .map_err(ContentError::Unreachable)?;
            let reader = self.open_local(id).await?;
            return Ok(self.reader(reader, id, image, whole));
        }
        let reader = self.open_local(id).await?;
        Ok(self.reader(reader, id, image, whole))
    }

    async fn open_local(&self, id: ManifestId) -> Result<ImageReader, ContentError> {
        let store = self.store.clone();
        Ok(on_disk(move || ImageReader::open(&store, id)).await?)
    }

    fn reader(
        &self,
        reader: ImageReader,
        id: ManifestId,
        image: Uuid,
        whole: bool,
    ) -> ContentReader {
        let reader = Arc::new(reader);
        let peers = self.peers.clone();
        ContentReader {
            reader,
            peers,
            id,
            image,
            whole,
            interest: tokio::sync::Mutex::new(None),
        }
    }
}

/// Reads one image.
pub struct ContentReader {
    reader: Arc<ImageReader>,
    peers: Option<Arc<Peers>>,
    id: ManifestId,
    image: Uuid,
    whole: bool,
    /// Keeps the pull going as long as somebody reads.
    interest: tokio::sync::Mutex<Option<Interest>>,
}

impl ContentReader {
    /// The reader of what is in the store, for dividing a range into units.
    pub fn reader(&self) -> &ImageReader {
        &self.reader
    }

    /// The bytes of a unit, fetched first if they are not here. A chunk that turns out to be damaged is
    /// fetched anew while the caller waits.
    pub async fn read(&self, unit: &Unit) -> Result<Vec<Bytes>, ContentError> {
        let mut tries = 1;
        loop {
            let (reader, wanted) = (self.reader.clone(), unit.clone());
            let result = on_disk(move || reader.read(&wanted)).await;
            let missing = matches!(result, Err(Error::MissingChunk(_) | Error::Damaged(_)));
            match (&self.peers, missing) {
                (Some(peers), true) if tries < TRIES => {
                    tries += 1;
                    self.fetch(peers, unit, tries > 2).await?;
                }
                _ => return Ok(result?),
            }
        }
    }

    /// Waits until the unit's chunks are here. `again` means that waiting did not help: the pull that runs believes
    /// to have what was lost since, so another one has to begin.
    async fn fetch(
        &self,
        peers: &Arc<Peers>,
        unit: &Unit,
        again: bool,
    ) -> Result<(), ContentError> {
        let mut shared = self.interest.lock().await;
        if again && let Some(interest) = shared.take() {
            interest
                .finished()
                .await
                .map_err(ContentError::Unreachable)?;
        }
        let chunks = self.reader.chunk_range(unit);
        if shared.as_ref().is_none_or(Interest::has_ended) {
            let at = Some(chunks.start);
            let begun = peers.pull(self.id, Some(self.image), self.whole, at).await;
            *shared = begun.map_err(ContentError::Unreachable)?;
        }
        let Some(interest) = shared.as_ref() else {
            return Ok(());
        };
        // Units are read side by side; each waits at its own place.
        let own = interest.pull().interest(false);
        drop(shared);
        own.wait(chunks).await.map_err(ContentError::Unreachable)
    }
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::Panicked("reader")))
}
