//! Adding chunks to a store.

use std::sync::Arc;

use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::frame::FRAME_CHUNKS_MAX;

use crate::error::{Error, Result};
use crate::frame::{EncodedFrame, Encoder};
use crate::lease::Lease;
use crate::store::Store;
use crate::writing::OpenPack;

/// Appended bytes after which a writer commits by itself; what a crash of the machine can cost of an
/// unfinished transfer.
const COMMIT_INTERVAL: u64 = 64 * 1024 * 1024;

/// Adds chunks to a store. One thread; several writers may work side by side, each on a pack of its own.
///
/// A call that failed has lost nothing and may be repeated, for example after a collection has made room.
/// Chunks that were put and not committed when a writer is dropped may or may not stay in the store.
pub struct Writer {
    store: Store,
    encoder: Encoder,
    pack: Option<OpenPack>,
    frame: Vec<VerifiedChunk>,
    frame_len: u32,
    uncommitted: u64,
    stored: u64,
    _lease: Arc<Lease>,
}

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

impl Writer {
    /// Adds a chunk that the lease names and the store was found to miss. It is readable after the frame
    /// it is in is full, or after [`Writer::commit`], and durable after a commit.
    pub fn put(&mut self, chunk: VerifiedChunk) -> Result<()> {
        if self.frame_len + chunk.len() > self.store.inner.options.frame_len
            || self.frame.len() as u64 == FRAME_CHUNKS_MAX
        {
            self.close_frame()?;
        }
        self.frame_len += chunk.len();
        self.frame.push(chunk);
        Ok(())
    }

    /// Makes everything put so far readable.
    pub fn flush(&mut self) -> Result<()> {
        self.close_frame()
    }

    /// Adds a frame as it is.
    pub(crate) fn put_encoded(&mut self, frame: &EncodedFrame) -> Result<()> {
        self.close_frame()?;
        self.append(frame)?;
        self.seal_or_commit()
    }

    /// Makes everything put so far durable.
    pub fn commit(&mut self) -> Result<()> {
        self.close_frame()?;
        self.store.commit()?;
        self.uncommitted = 0;
        Ok(())
    }

    /// Bytes of frames appended to packs by this writer.
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
        self.append(&frame)?;
        self.frame.clear();
        self.frame_len = 0;
        self.seal_or_commit()
    }

    fn append(&mut self, frame: &EncodedFrame) -> Result<()> {
        let len = frame.bytes.len() as u64;
        self.store.check_room(len)?;
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.store.open_pack()?,
        };
        // A pack that a write to failed is dropped here, so a repeated call gets another one.
        pack.append(frame)?;
        self.pack = Some(pack);
        self.stored += len;
        self.uncommitted += len;
        Ok(())
    }

    fn seal_or_commit(&mut self) -> Result<()> {
        match self.pack.take_if(|pack| pack.is_full()) {
            Some(pack) => {
                pack.seal()?;
            }
            None if self.uncommitted >= COMMIT_INTERVAL => self.store.commit()?,
            None => return Ok(()),
        }
        self.uncommitted = 0;
        Ok(())
    }
}
