//! Adding chunks to a store.

use std::sync::Arc;

use vitrail_proto::chunk::VerifiedChunk;

use crate::error::{Error, Result};
use crate::frame::{EncodedFrame, Encoder};
use crate::lease::Lease;
use crate::pack::PackWriter;
use crate::store::Store;

/// Appended bytes after which a writer commits by itself; what a crash of the machine can cost of an
/// unfinished transfer.
const COMMIT_INTERVAL: u64 = 64 * 1024 * 1024;

impl Store {
    /// Begins adding chunks under `lease`.
    pub fn writer(&self, lease: Arc<Lease>) -> Result<Writer> {
        let encoder = Encoder::new(self.inner.options.zstd_level)
            .map_err(|e| Error::io("making a zstd encoder", e))?;
        Ok(Writer {
            store: self.clone(),
            encoder,
            pack: None,
            frame: Vec::new(),
            frame_len: 0,
            uncommitted: 0,
            stored: 0,
            _lease: lease,
        })
    }
}

/// Adds chunks to a store. One thread; several writers may work side by side, each on a pack of its own.
pub struct Writer {
    store: Store,
    encoder: Encoder,
    pack: Option<PackWriter>,
    frame: Vec<VerifiedChunk>,
    frame_len: u32,
    uncommitted: u64,
    stored: u64,
    _lease: Arc<Lease>,
}

impl Writer {
    /// Adds a chunk that the lease names and the store was found to miss. It is readable after the frame
    /// it is in is full, or after [`Writer::commit`], and durable after a commit.
    pub fn put(&mut self, chunk: VerifiedChunk) -> Result<()> {
        if self.frame_len + chunk.len() > self.store.inner.options.frame_len {
            self.close_frame()?;
        }
        self.frame_len += chunk.len();
        self.frame.push(chunk);
        Ok(())
    }

    /// Makes everything put so far durable.
    pub fn commit(&mut self) -> Result<()> {
        self.close_frame()?;
        self.uncommitted = 0;
        self.store.commit()
    }

    /// Bytes appended to packs by this writer.
    pub fn stored_bytes(&self) -> u64 {
        self.stored
    }

    fn close_frame(&mut self) -> Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let frame = self
            .encoder
            .encode(&self.frame)
            .map_err(|e| Error::io("encoding a frame", e))?;
        self.frame.clear();
        self.frame_len = 0;
        self.append(&frame)
    }

    fn append(&mut self, frame: &EncodedFrame) -> Result<()> {
        let len = frame.bytes.len() as u64;
        self.store.check_room(len)?;
        let pack = match &mut self.pack {
            Some(pack) => pack,
            None => self.pack.insert(self.store.take_pack()?),
        };
        self.store.append(pack, frame)?;
        self.stored += len;
        self.uncommitted += len;
        if pack.len() >= self.store.inner.options.pack_len {
            if let Some(pack) = self.pack.take() {
                self.store.seal(pack)?;
            }
            self.uncommitted = 0;
        } else if self.uncommitted >= COMMIT_INTERVAL {
            self.store.commit()?;
            self.uncommitted = 0;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(pack) = self.pack.take() {
            self.store.return_pack(pack);
        }
    }
}
