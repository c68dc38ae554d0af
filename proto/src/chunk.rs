//! Chunks: the pieces that images are cut into, and the proof that one is what its id says.

use bytes::Bytes;
use thiserror::Error;

use crate::id::ChunkId;

/// Longest chunk in bytes, a hard cap on every input.
pub const CHUNK_LEN_MAX: u32 = 256 * 1024;

/// Bytes together with the id that they were found to have. It can only be made by hashing, and only
/// this type can be put into a store or given to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChunk {
    id: ChunkId,
    bytes: Bytes,
}

/// Bytes that are not a chunk, or not the one that they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// A chunk has 1 to [`CHUNK_LEN_MAX`] bytes.
    #[error("a chunk of {0} bytes: allowed is 1 to {CHUNK_LEN_MAX}")]
    Length(usize),
    /// The bytes have another hash than claimed.
    #[error("chunk {expected} has bytes that hash to {found}")]
    Mismatch {
        /// Id under which the bytes were offered.
        expected: ChunkId,
        /// Id of the bytes.
        found: ChunkId,
    },
}

impl VerifiedChunk {
    /// Names new bytes.
    pub fn hash(bytes: Bytes) -> Result<Self, ChunkError> {
        if bytes.is_empty() || bytes.len() > CHUNK_LEN_MAX as usize {
            return Err(ChunkError::Length(bytes.len()));
        }
        Ok(Self {
            id: ChunkId::of(&bytes),
            bytes,
        })
    }

    /// Checks that `bytes` are the chunk `expected`.
    pub fn verify(expected: ChunkId, bytes: Bytes) -> Result<Self, ChunkError> {
        let chunk = Self::hash(bytes)?;
        if chunk.id == expected {
            Ok(chunk)
        } else {
            Err(ChunkError::Mismatch {
                expected,
                found: chunk.id,
            })
        }
    }

    /// Its name.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Its content, uncompressed.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its length in bytes, 1 to [`CHUNK_LEN_MAX`].
    #[allow(clippy::len_without_is_empty)] // a chunk is never empty
    pub fn len(&self) -> u32 {
        self.bytes.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_right_bytes_verify() {
        let bytes = Bytes::from_static(b"pane");
        let id = ChunkId::of(&bytes);
        assert_eq!(VerifiedChunk::verify(id, bytes).map(|c| c.len()), Ok(4));
        assert!(matches!(
            VerifiedChunk::verify(id, Bytes::from_static(b"pain")),
            Err(ChunkError::Mismatch { expected, .. }) if expected == id
        ));
        assert_eq!(
            VerifiedChunk::hash(Bytes::new()),
            Err(ChunkError::Length(0))
        );
        let long = Bytes::from(vec![0; CHUNK_LEN_MAX as usize + 1]);
        assert_eq!(
            VerifiedChunk::hash(long),
            Err(ChunkError::Length(CHUNK_LEN_MAX as usize + 1))
        );
    }
}
