//! Frames on their way to and from other sites: stored as they are sent, sent as they are stored.

use bytes::Bytes;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::codec::Reader;
use vitrail_proto::frame::{FRAME_CHUNKS_MAX, FrameHead};
use vitrail_proto::id::ChunkId;

use crate::error::{Error, Result};
use crate::frame::{EncodedFrame, Encoder};
use crate::store::Store;
use crate::writer::Writer;

/// Uncompressed bytes at which a frame that is made for sending is closed: a receiver that waits for a chunk waits
/// for its frame.
const SENT_FRAME_LEN: u32 = 256 * 1024;
/// A received frame of at least this many uncompressed bytes is stored as it came; smaller ones are merged.
const KEPT_FRAME_LEN_MIN: u32 = 128 * 1024;

impl Store {
    /// Frames that together hold the chunks of `ids`, in order, to be sent one after the other. A stored frame
    /// that holds exactly the next chunks is taken as it is, without decoding; its receiver verifies the chunks.
    pub fn frames(&self, ids: &[ChunkId], encoder: &mut Encoder) -> Result<Vec<Bytes>> {
        let mut frames = Vec::new();
        let mut loose = Vec::new();
        let mut rest = ids;
        while !rest.is_empty() {
            match self.stored_frame(rest) {
                Some((count, frame)) => {
                    self.encode(&mut loose, encoder, &mut frames)?;
                    frames.push(frame);
                    rest = &rest[count..];
                }
                None => {
                    // As many as lie together anyway, so that a frame is decoded once.
                    let count = self.count_together(rest)?;
                    loose.extend(self.chunks(&rest[..count])?);
                    rest = &rest[count..];
                }
            }
        }
        self.encode(&mut loose, encoder, &mut frames)?;
        Ok(frames)
    }

    /// The stored frame that holds exactly the first chunks of `ids`, and how many. Anything wrong with it is
    /// left to the reading of single chunks, which knows what to do.
    fn stored_frame(&self, ids: &[ChunkId]) -> Option<(usize, Bytes)> {
        let first = self.locations(&ids[..1]).ok()?[0].filter(|at| at.number == 0)?;
        let frame = self.read_entry(first.entry).ok()?;
        let head = FrameHead::decode(&mut Reader::new(&frame)).ok()?;
        let whole = ids.len() >= head.chunks.len()
            && head
                .chunks
                .iter()
                .zip(ids)
                .all(|(chunk, id)| chunk.id == *id);
        whole.then_some((head.chunks.len(), frame))
    }

    fn count_together(&self, ids: &[ChunkId]) -> Result<usize> {
        const LOOK_AHEAD: usize = 16;
        let locations = self.locations(&ids[..ids.len().min(LOOK_AHEAD)])?;
        let entry = locations[0].map(|at| at.entry);
        let together = locations
            .iter()
            .take_while(|at| at.map(|at| at.entry) == entry);
        Ok(together.count().max(1))
    }

    fn encode(
        &self,
        loose: &mut Vec<VerifiedChunk>,
        encoder: &mut Encoder,
        frames: &mut Vec<Bytes>,
    ) -> Result<()> {
        let mut start = 0;
        let mut len = 0;
        for end in 0..=loose.len() {
            let next = loose.get(end).map(VerifiedChunk::len);
            let full = (end - start) as u64 == FRAME_CHUNKS_MAX;
            if end > start && (full || next.is_none_or(|next| len + next > SENT_FRAME_LEN)) {
                let frame = encoder
                    .encode(&loose[start..end])
                    .map_err(|e| Error::io("encoding a frame", e))?;
                frames.push(frame.bytes.into());
                (start, len) = (end, 0);
            }
            len += next.unwrap_or(0);
        }
        loose.clear();
        Ok(())
    }
}

impl Writer {
    /// Adds the chunks of a frame that came from elsewhere; `chunks` is what [`decode`] made of it. `wanted`
    /// tells by position which of them the store misses. They are readable on return.
    ///
    /// [`decode`]: crate::frame::decode
    pub fn put_frame(
        &mut self,
        frame: &Bytes,
        chunks: Vec<VerifiedChunk>,
        wanted: &[bool],
    ) -> Result<()> {
        let raw_len: u32 = chunks.iter().map(VerifiedChunk::len).sum();
        if wanted.iter().all(|w| *w) && raw_len >= KEPT_FRAME_LEN_MIN {
            let head = FrameHead::decode(&mut Reader::new(frame))?;
            let named = head.chunks.iter().map(|chunk| chunk.id);
            assert!(
                named.eq(chunks.iter().map(VerifiedChunk::id)),
                "the chunks are those of the frame"
            );
            return self.put_encoded(&EncodedFrame {
                head,
                bytes: frame.to_vec(),
            });
        }
        for (chunk, _) in chunks
            .into_iter()
            .zip(wanted)
            .filter(|(_, wanted)| **wanted)
        {
            self.put(chunk)?;
        }
        self.flush()
    }
}
