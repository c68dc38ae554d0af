//! Appending to a pack.

use std::sync::Arc;

use vitrail_proto::frame::FrameHead;

use super::format::{self, HEADER_LEN};
use super::{EntryRef, PackId};
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};

/// The one writer of an unsealed pack.
pub(crate) struct PackWriter {
    id: PackId,
    file: Arc<dyn DiskFile>,
    len: u64,
    entries: Vec<(u64, FrameHead)>,
    buffer: Vec<u8>,
    /// A write failed: what the file holds after `len` is unknown, so nothing is added any more.
    failed: bool,
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
            entries: Vec::new(),
            buffer: Vec::new(),
            failed: false,
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

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// Appends a frame. It is durable after a sync of the file.
    pub(crate) fn append(&mut self, head: &FrameHead, frame: &[u8]) -> Result<EntryRef> {
        self.buffer.clear();
        format::encode_entry(frame, &mut self.buffer);
        let offset = self.len;
        self.write(offset)?;
        self.entries.push((offset, head.clone()));
        Ok(EntryRef {
            pack: self.id,
            offset,
            len: self.buffer.len() as u32,
        })
    }

    /// Writes the footer and syncs. The pack is complete and immutable from here on.
    pub(crate) fn seal(&mut self) -> Result<()> {
        self.buffer = format::encode_footer(&self.entries, self.len);
        self.write(self.len)?;
        self.file
            .sync()
            .map_err(|e| Error::io(format!("syncing pack {}", self.id), e))
    }

    fn write(&mut self, at: u64) -> Result<()> {
        if self.failed {
            return Err(Error::Index(format!("pack {} failed before", self.id)));
        }
        if let Err(error) = self.file.write_at(at, &self.buffer) {
            self.failed = true;
            return Err(Error::io(format!("writing pack {}", self.id), error));
        }
        self.len = at + self.buffer.len() as u64;
        Ok(())
    }
}
