//! Running a frame's codec: chunks to bodies and back. What a frame is, is in `vitrail_proto::frame`.

use std::cell::RefCell;

use bytes::Bytes;
use thiserror::Error;
use vitrail_proto::chunk::{ChunkError, VerifiedChunk};
use vitrail_proto::codec::{DecodeError, Reader};
use vitrail_proto::frame::{ChunkEntry, Codec, FrameHead};

/// A body is only kept compressed if it saves at least 1/16: less is not worth decoding on every read.
const SAVING_MIN: usize = 16;

/// An encoded frame: `head` bytes, then `body` bytes.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    /// The head, decoded.
    pub head: FrameHead,
    /// Head and body as they are stored and sent.
    pub bytes: Vec<u8>,
}

/// Why a frame could not be decoded to its chunks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The head or its length is wrong.
    #[error(transparent)]
    Head(#[from] DecodeError),
    /// The body does not decode to the declared length.
    #[error("frame body: {0}")]
    Body(String),
    /// A chunk is not what the head says.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
}

/// Makes frames. It keeps the codec's memory (about 3 MiB at level 3) between frames.
pub struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    raw: Vec<u8>,
}

impl Encoder {
    /// An encoder at this zstd level, 1 to 22.
    pub fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self {
            zstd: zstd::bulk::Compressor::new(level)?,
            raw: Vec::new(),
        })
    }

    /// Encodes `chunks`, of which there must be at least one, at most
    /// [`vitrail_proto::frame::FRAME_CHUNKS_MAX`], and at most
    /// [`vitrail_proto::frame::FRAME_RAW_MAX`] bytes: a decoder refuses others.
    pub fn encode(&mut self, chunks: &[VerifiedChunk]) -> std::io::Result<EncodedFrame> {
        self.raw.clear();
        for chunk in chunks {
            self.raw.extend_from_slice(chunk.bytes());
        }
        let compressed = self.zstd.compress(&self.raw)?;
        let pays = compressed.len() + self.raw.len() / SAVING_MIN <= self.raw.len();
        let (codec, body) = if pays {
            (Codec::Zstd, &compressed[..])
        } else {
            (Codec::Raw, &self.raw[..])
        };
        let entries = chunks
            .iter()
            .map(|c| ChunkEntry {
                id: c.id(),
                len: c.len(),
            })
            .collect();
        let head = FrameHead {
            codec,
            chunks: entries,
            references: Vec::new(),
            body_len: body.len() as u32,
        };
        let mut bytes = Vec::with_capacity(64 + 36 * chunks.len() + body.len());
        head.encode(&mut bytes);
        bytes.extend_from_slice(body);
        Ok(EncodedFrame { head, bytes })
    }
}

thread_local! {
    static DECODER: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decodes a whole frame and verifies every chunk in it. Memory: the declared raw length, which
/// the head bounds, once.
pub fn decode(frame: &Bytes) -> Result<Vec<VerifiedChunk>, FrameError> {
    let mut reader = Reader::new(frame);
    let head = FrameHead::decode(&mut reader)?;
    if reader.remaining() != head.body_len as usize {
        return Err(FrameError::Body(format!(
            "{} bytes, the head says {}",
            reader.remaining(),
            head.body_len
        )));
    }
    let body = frame.slice(frame.len() - head.body_len as usize..);
    let raw_len = head.raw_len() as usize;
    let raw = match head.codec {
        Codec::Raw => body,
        Codec::Zstd => Bytes::from(decompress(&body, raw_len)?),
        _ => return Err(FrameError::Body("codec not supported here".into())),
    };
    let mut at = 0;
    head.chunks
        .iter()
        .map(|entry| {
            let bytes = raw.slice(at..at + entry.len as usize);
            at += entry.len as usize;
            Ok(VerifiedChunk::verify(entry.id, bytes)?)
        })
        .collect()
}

fn decompress(body: &[u8], raw_len: usize) -> Result<Vec<u8>, FrameError> {
    let body_error = |e: std::io::Error| FrameError::Body(e.to_string());
    DECODER.with_borrow_mut(|slot| {
        let decoder = match slot {
            Some(decoder) => decoder,
            None => slot.insert(zstd::bulk::Decompressor::new().map_err(body_error)?),
        };
        // One-shot decoding writes straight into the output, so its capacity is the only memory.
        let mut raw = Vec::with_capacity(raw_len);
        decoder
            .decompress_to_buffer(body, &mut raw)
            .map_err(body_error)?;
        if raw.len() != raw_len {
            return Err(FrameError::Body(format!(
                "{} bytes decoded, the head says {raw_len}",
                raw.len()
            )));
        }
        Ok(raw)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    fn chunk(bytes: Vec<u8>) -> VerifiedChunk {
        VerifiedChunk::hash(bytes.into()).expect("length")
    }

    #[test]
    fn text_is_compressed_and_noise_is_not() {
        let mut encoder = Encoder::new(3).unwrap();
        let mut noise = vec![0; 50_000];
        rand::rngs::SmallRng::seed_from_u64(1).fill(&mut noise[..]);
        let text = b"vitrail ".repeat(5000);
        for (bytes, codec) in [(text, Codec::Zstd), (noise, Codec::Raw)] {
            let chunks = vec![chunk(bytes[..1000].to_vec()), chunk(bytes[1000..].to_vec())];
            let frame = encoder.encode(&chunks).unwrap();
            assert_eq!(frame.head.codec, codec);
            assert_eq!(decode(&frame.bytes.into()), Ok(chunks));
        }
    }

    #[test]
    fn flipped_bits_never_decode() {
        let mut encoder = Encoder::new(3).unwrap();
        let bytes = encoder
            .encode(&[chunk(b"glass and lead ".repeat(100))])
            .unwrap()
            .bytes;
        let whole = decode(&bytes.clone().into()).unwrap();
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            if let Ok(chunks) = decode(&bad.into()) {
                // Some bits of a zstd header do not matter; what comes out must be right.
                assert_eq!(chunks, whole);
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_without_its_memory() {
        let zeros = vec![0u8; 64 * 1024 * 1024];
        let body = zstd::bulk::compress(&zeros, 3).unwrap();
        let raw_len = 100_000;
        let head = FrameHead {
            codec: Codec::Zstd,
            chunks: vec![ChunkEntry {
                id: vitrail_proto::id::ChunkId::of(&zeros[..raw_len]),
                len: raw_len as u32,
            }],
            references: Vec::new(),
            body_len: body.len() as u32,
        };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        bytes.extend(body);
        assert!(matches!(decode(&bytes.into()), Err(FrameError::Body(_))));
    }
}
