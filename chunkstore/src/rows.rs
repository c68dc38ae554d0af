//! The rows of the index that say where chunks are and what packs hold. Their layout is in `docs/FORMAT.md`.

use vitrail_proto::chunk::CHUNK_LEN_MAX;
use vitrail_proto::codec::{DecodeError, Reader, put_varint};
use vitrail_proto::frame::{FRAME_CHUNKS_MAX, FrameHead};
use vitrail_proto::id::ChunkId;

use crate::db::{Batch, Row};
use crate::pack::{ENTRY_LEN_MAX, EntryRef, PackId};

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

/// What the index knows of a pack that holds committed chunks.
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
    /// The places of a frame's chunks, once it is written as `entry`.
    pub(crate) fn of_frame(
        entry: EntryRef,
        head: &FrameHead,
    ) -> impl Iterator<Item = (ChunkId, Self)> {
        head.chunks.iter().enumerate().map(move |(number, chunk)| {
            let location = Self {
                entry,
                number: number as u32,
                raw_len: chunk.len,
            };
            (chunk.id, location)
        })
    }

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
        // Bounded, since readers make a buffer of this length.
        let len = reader.varint(ENTRY_LEN_MAX, "chunk row length")? as u32;
        let number = reader.varint(FRAME_CHUNKS_MAX, "chunk row number")? as u32;
        let raw_len = reader.varint(CHUNK_LEN_MAX.into(), "chunk row raw length")? as u32;
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

    /// Counts a row that points here.
    pub(crate) fn add(&mut self, location: &Location) {
        self.chunks += 1;
        self.raw_bytes += u64::from(location.raw_len);
    }

    /// Takes a row off that pointed here.
    pub(crate) fn remove(&mut self, location: &Location) {
        self.chunks = self.chunks.saturating_sub(1);
        self.raw_bytes = self.raw_bytes.saturating_sub(location.raw_len.into());
    }
}

/// Puts a pack's row into a batch.
pub(crate) fn put_pack_row(batch: &mut Batch, id: PackId, row: &PackRow) {
    batch.put(PACKS, &id.0.to_be_bytes(), row.encode());
}

/// A row of [`CHUNKS`].
pub(crate) fn chunk_row((key, value): &Row) -> Result<(ChunkId, Location), DecodeError> {
    let id = ChunkId::from_bytes(Reader::new(key).array("chunk row id")?);
    Ok((id, Location::decode(value)?))
}
