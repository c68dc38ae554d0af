//! Frames: a few chunks encoded together, the unit of storage and of fetch.
//!
//! A frame is a head and a body. The head names the codec, the chunks in order with their lengths, and
//! the chunks that the body was encoded against; the body is what the codec made of the chunks laid
//! end to end. A pack stores frames as they go over the wire. This module knows heads; running a codec
//! is the chunk store's business. The byte layout is in `proto/docs/FORMAT.md`.

use crate::chunk::CHUNK_LEN_MAX;
use crate::codec::{DecodeError, Reader, put_varint};
use crate::id::ChunkId;

/// Most uncompressed bytes in a frame. A decoder's buffer is never larger.
pub const FRAME_RAW_MAX: u32 = 1024 * 1024;
/// Most chunks in a frame.
pub const FRAME_CHUNKS_MAX: u64 = 4096;
/// Most references of a frame.
pub const FRAME_REFERENCES_MAX: u64 = 64;
/// Longest encoded frame in bytes: the largest head and a body that did not compress.
pub const FRAME_LEN_MAX: u64 =
    64 + FRAME_CHUNKS_MAX * 36 + FRAME_REFERENCES_MAX * 32 + FRAME_RAW_MAX as u64;

/// How a frame's body was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// 0: the chunks as they are.
    Raw,
    /// 1: one zstd frame.
    Zstd,
}

impl Codec {
    /// Number in the encoding.
    pub fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    fn from_number(number: u8) -> Result<Self, DecodeError> {
        match number {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            other => Err(DecodeError::Unknown {
                what: "frame codec",
                value: other.into(),
            }),
        }
    }
}

/// A chunk as a frame lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its claimed id.
    pub id: ChunkId,
    /// Uncompressed bytes, 1 to [`CHUNK_LEN_MAX`].
    pub len: u32,
}

/// Everything about a frame but its body.
///
/// Invariants of a decoded head: at least one chunk, their lengths sum to at most [`FRAME_RAW_MAX`], the
/// body is not longer than that sum, and exactly as long when the codec is [`Codec::Raw`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHead {
    /// How the body was made.
    pub codec: Codec,
    /// The chunks in order.
    pub chunks: Vec<ChunkEntry>,
    /// Chunks that the body was encoded against. Neither known codec takes any.
    pub references: Vec<ChunkId>,
    /// Bytes of the body.
    pub body_len: u32,
}

impl FrameHead {
    /// Sum of the chunks' lengths in bytes.
    pub fn raw_len(&self) -> u32 {
        self.chunks.iter().map(|c| c.len).sum()
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.codec.number());
        put_varint(out, self.chunks.len() as u64);
        for chunk in &self.chunks {
            out.extend_from_slice(chunk.id.as_bytes());
            put_varint(out, chunk.len.into());
        }
        put_varint(out, self.references.len() as u64);
        for id in &self.references {
            out.extend_from_slice(id.as_bytes());
        }
        put_varint(out, self.body_len.into());
    }

    /// Reads a head and leaves `reader` at the body.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let codec = Codec::from_number(reader.u8("frame codec")?)?;
        let count = reader.varint(FRAME_CHUNKS_MAX, "frame chunk count")?;
        if count == 0 {
            return Err(DecodeError::Invalid {
                what: "frame",
                rule: "it has no chunk",
            });
        }
        let mut chunks = Vec::new();
        let mut raw_len = 0u64;
        for _ in 0..count {
            let id = ChunkId::from_bytes(reader.array("frame chunk id")?);
            let len = reader.varint(CHUNK_LEN_MAX.into(), "frame chunk length")?;
            if len == 0 {
                return Err(DecodeError::Invalid {
                    what: "frame chunk length",
                    rule: "it is 0",
                });
            }
            raw_len += len;
            chunks.push(ChunkEntry {
                id,
                len: len as u32,
            });
        }
        if raw_len > FRAME_RAW_MAX.into() {
            let max = FRAME_RAW_MAX.into();
            return Err(DecodeError::TooLarge {
                what: "frame raw length",
                value: raw_len,
                max,
            });
        }
        let count = reader.varint(FRAME_REFERENCES_MAX, "frame reference count")?;
        if count > 0 {
            return Err(DecodeError::Invalid {
                what: "frame references",
                rule: "this codec takes none",
            });
        }
        let body_len = reader.varint(raw_len, "frame body length")?;
        if codec == Codec::Raw && body_len != raw_len {
            return Err(DecodeError::Invalid {
                what: "frame body length",
                rule: "a raw body is as long as its chunks",
            });
        }
        Ok(Self {
            codec,
            chunks,
            references: Vec::new(),
            body_len: body_len as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn head()(
            lens in proptest::collection::vec(1u32..=1000, 1..20),
            raw: bool,
            seed: u8,
        ) -> FrameHead {
            let chunks: Vec<_> = lens
                .iter()
                .enumerate()
                .map(|(i, &len)| ChunkEntry { id: ChunkId::of(&[seed, i as u8]), len })
                .collect();
            let raw_len: u32 = lens.iter().sum();
            let (codec, body_len) =
                if raw { (Codec::Raw, raw_len) } else { (Codec::Zstd, raw_len / 2) };
            FrameHead { codec, chunks, references: Vec::new(), body_len }
        }
    }

    proptest! {
        #[test]
        fn round_trip(head in head()) {
            let mut out = Vec::new();
            head.encode(&mut out);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(FrameHead::decode(&mut reader), Ok(head));
            prop_assert_eq!(reader.remaining(), 0);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(head) = FrameHead::decode(&mut Reader::new(&bytes)) {
                prop_assert!(head.raw_len() <= FRAME_RAW_MAX);
            }
        }
    }

    #[test]
    fn unknown_codec_is_refused_by_number() {
        let mut out = vec![7];
        out.extend([0; 40]);
        assert_eq!(
            FrameHead::decode(&mut Reader::new(&out)),
            Err(DecodeError::Unknown {
                what: "frame codec",
                value: 7
            })
        );
    }
}
