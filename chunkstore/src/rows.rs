//! The rows of the index that say where chunks are and what packs hold. Their layout is in `docs/FORMAT.md`.

use vitrail_proto::codec::{DecodeError, Reader, put_varint};

use crate::db::Batch;
use crate::error::Result;
use crate::pack::{EntryRef, PackId};

pub(crate) const CHUNKS: &str = "chunks";
pub(crate) const PACKS: &str = "packs";
pub(crate) const MANIFESTS: &str = "manifests";
pub(crate) const FACTS: &str = "manifest-facts";
pub(crate) const META: &str = "meta";
pub(crate) const NEXT_PACK: &[u8] = b"next-pack";

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) entry: EntryRef,
    /// Its number in the frame.
    pub(crate) number: u32,
    pub(crate) raw_len: u32,
}

/// What the index knows of a pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PackRow {
    /// Bytes that are durable.
    pub(crate) len: u64,
    pub(crate) sealed: bool,
    /// Chunks whose row points here.
    pub(crate) chunks: u64,
    /// Their uncompressed bytes.
    pub(crate) raw_bytes: u64,
    /// Uncompressed bytes of everything ever written here; the share of it that still has rows tells
    /// whether the pack is worth rewriting.
    pub(crate) raw_written: u64,
}

impl Location {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        let numbers = [
            self.entry.pack.0,
            self.entry.offset,
            self.entry.len.into(),
            self.number.into(),
            self.raw_len.into(),
        ];
        numbers.into_iter().for_each(|n| put_varint(&mut out, n));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let pack = PackId(reader.varint(u64::MAX, "chunk row pack")?);
        let offset = reader.varint(u64::MAX, "chunk row offset")?;
        let mut small = |what| reader.varint(u32::MAX.into(), what).map(|n| n as u32);
        let len = small("chunk row length")?;
        let number = small("chunk row number")?;
        let raw_len = small("chunk row raw length")?;
        reader.finish("chunk row")?;
        Ok(Self {
            entry: EntryRef { pack, offset, len },
            number,
            raw_len,
        })
    }
}

impl PackRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        let numbers = [
            self.len,
            self.sealed.into(),
            self.chunks,
            self.raw_bytes,
            self.raw_written,
        ];
        numbers.into_iter().for_each(|n| put_varint(&mut out, n));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let row = Self {
            len: reader.varint(u64::MAX, "pack row length")?,
            sealed: reader.varint(1, "pack row seal")? == 1,
            chunks: reader.varint(u64::MAX, "pack row chunks")?,
            raw_bytes: reader.varint(u64::MAX, "pack row bytes")?,
            raw_written: reader.varint(u64::MAX, "pack row bytes written")?,
        };
        reader.finish("pack row")?;
        Ok(row)
    }

    /// Counts a chunk that was written here; `row` tells whether its row points here.
    pub(crate) fn add(&mut self, location: &Location, row: bool) {
        let len = u64::from(location.raw_len);
        self.raw_written += len;
        if row {
            self.chunks += 1;
            self.raw_bytes += len;
        }
    }

    pub(crate) fn remove(&mut self, location: &Location) {
        self.chunks = self.chunks.saturating_sub(1);
        self.raw_bytes = self.raw_bytes.saturating_sub(location.raw_len.into());
    }
}

/// Puts a pack's row into a batch.
pub(crate) fn put_pack_row(batch: &mut Batch, id: PackId, row: &PackRow) {
    batch.put(PACKS, &id.0.to_be_bytes(), row.encode());
}
