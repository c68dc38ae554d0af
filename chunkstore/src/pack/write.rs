//! Appending to a pack.

use std::sync::Arc;

use vitrail_proto::frame::FrameHead;

use super::format::{self, HEADER_LEN};
use super::{EntryRef, PackId};
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};

/// The one writer of an unsealed pack. Memory: 40 bytes for each chunk in it, until it is sealed.
pub(crate) struct PackWriter {
    id: PackId,
    file: Arc<dyn DiskFile>,
    len: u64,
    chunks: u64,
    raw_bytes: u64,
    entries: Vec<(u64, FrameHead)>,
    buffer: Vec<u8>,
    closed: bool,
}

impl PackWriter {
    /// Starts a new pack.
    pub(crate) fn create(disk: &dyn Disk, id: PackId) -> Result<Self> {
        let what = || format!("making pack {id}");
        let file = disk
            .create(&id.file_name())
            .map_err(|e| Error::io(what(), e))?;
        let header = format::encode_header(id);
        let written = file.write_at(0, &header).and_then(|()| disk.sync_names());
        if let Err(error) = written {
            // Without a whole header the file is not a pack; a leftover is removed at the next open.
            return Err(match disk.remove(&id.file_name()) {
                Ok(()) => Error::io(what(), error),
                Err(remove) => Error::io(format!("{} (and removing it: {remove})", what()), error),
            });
        }
        Ok(Self {
            id,
            file,
            len: HEADER_LEN,
            chunks: 0,
            raw_bytes: 0,
            entries: Vec::new(),
            buffer: Vec::new(),
            closed: false,
        })
    }

    pub(crate) fn id(&self) -> PackId {
        self.id
    }

    pub(crate) fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Chunks written so far.
    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Their uncompressed bytes.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it takes no more: it is sealed, or a write failed, so that nobody knows what the file
    /// holds after `len`.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// Writes a frame's entry. It is durable after a sync of the file. After an error the pack is closed.
    pub(crate) fn write(&mut self, head: &FrameHead, frame: &[u8]) -> Result<EntryRef> {
        self.buffer.clear();
        format::encode_entry(frame, &mut self.buffer);
        let entry = EntryRef {
            pack: self.id,
            offset: self.len,
            len: self.buffer.len() as u32,
        };
        self.write_buffer()?;
        self.chunks += head.chunks.len() as u64;
        self.raw_bytes += u64::from(head.raw_len());
        self.entries.push((entry.offset, head.clone()));
        Ok(entry)
    }

    /// Writes the footer. After a sync of the file the pack is complete; it is closed in any case.
    pub(crate) fn write_footer(&mut self) -> Result<()> {
        self.buffer = format::encode_footer(&self.entries, self.len);
        self.write_buffer()?;
        self.closed = true;
        Ok(())
    }

    fn write_buffer(&mut self) -> Result<()> {
        assert!(!self.closed, "a closed pack takes nothing");
        if let Err(error) = self.file.write_at(self.len, &self.buffer) {
            self.closed = true;
            return Err(Error::io(format!("writing pack {}", self.id), error));
        }
        self.len += self.buffer.len() as u64;
        Ok(())
    }
}
