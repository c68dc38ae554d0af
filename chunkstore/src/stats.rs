//! Figures of a store.

use std::sync::atomic::Ordering;

use vitrail_proto::codec::Reader;

use crate::directory::FORMAT_VERSION;
use crate::error::{Error, Result};
use crate::rows::FACTS;
use crate::store::Store;

/// What a store holds, in bytes and counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Version of the layout on disk.
    pub format: u32,
    /// Manifests, that is distinct images.
    pub manifests: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Pack files.
    pub packs: u64,
    /// Sum of the sizes of all manifests.
    pub logical_bytes: u64,
    /// The same without holes.
    pub data_bytes: u64,
    /// Uncompressed bytes of the distinct chunks.
    pub unique_bytes: u64,
    /// Bytes of pack files on disk.
    pub pack_bytes: u64,
    /// Bytes of index files on disk.
    pub index_bytes: u64,
    /// The configured limit of pack bytes.
    pub capacity_bytes: Option<u64>,
    /// Bytes free on the disk.
    pub free_bytes: u64,
    /// Chunks found damaged and taken out of the index since the store was opened.
    pub damaged_chunks: u64,
}

impl Store {
    /// [`Stats::damaged_chunks`], at no cost.
    pub fn damaged_chunks(&self) -> u64 {
        self.inner.damaged.load(Ordering::Relaxed)
    }

    /// What the store holds. Cost: one row per manifest.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats {
            format: FORMAT_VERSION,
            capacity_bytes: self.inner.options.capacity,
            damaged_chunks: self.damaged_chunks(),
            ..Stats::default()
        };
        for row in self.inner.db.rows(FACTS, &[])? {
            let (_, value) = row?;
            let mut reader = Reader::new(&value);
            stats.manifests += 1;
            stats.logical_bytes += reader.varint(u64::MAX, "manifest facts size")?;
            stats.data_bytes += reader.varint(u64::MAX, "manifest facts data size")?;
        }
        for row in self.inner.packs.lock().values() {
            stats.packs += 1;
            stats.chunks += row.chunks;
            stats.unique_bytes += row.raw_bytes;
        }
        let files = self
            .inner
            .disk
            .list()
            .map_err(|e| Error::io("listing packs", e))?;
        stats.pack_bytes = files.iter().map(|(_, len)| len).sum();
        let index = self.inner.directory.join("index");
        let files = std::fs::read_dir(&index)
            .map_err(|e| Error::io(format!("listing {}", index.display()), e))?;
        // Files of the index come and go while we look.
        stats.index_bytes = files
            .flatten()
            .flat_map(|f| f.metadata())
            .map(|m| m.len())
            .sum();
        stats.free_bytes = self
            .inner
            .disk
            .free_bytes()
            .map_err(|e| Error::io("asking for free space", e))?;
        Ok(stats)
    }
}
