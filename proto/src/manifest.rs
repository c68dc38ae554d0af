//! Manifests: what an image's bytes are, as a list of segments.
//!
//! The byte layout is in `proto/docs/FORMAT.md`. Nothing outside this module may assume that an image
//! is its chunks laid end to end: a segment has a kind, and a later version may add kinds.

use crate::chunk::CHUNK_LEN_MAX;
use crate::codec::{DecodeError, Reader, put_bytes, put_varint};
use crate::id::{ChunkId, ManifestId};

const MAGIC: [u8; 4] = *b"VMAN";
const VERSION: u8 = 1;
const KIND_CHUNK: u8 = 1;
const KIND_HOLE: u8 = 2;

/// Largest image in bytes (16 TiB).
pub const IMAGE_SIZE_MAX: u64 = 1 << 44;
/// Longest encoded manifest in bytes (512 MiB): an image of 1 TiB needs about 470 MB at a mean chunk of
/// 80 KiB.
pub const MANIFEST_LEN_MAX: u64 = 512 * 1024 * 1024;
const FORMAT_NAME_LEN_MAX: usize = 32;

const HOLES_TOUCH: DecodeError = DecodeError::Invalid {
    what: "segments",
    rule: "two holes touch",
};

/// How an image was cut. Two manifests made with the same parameters cut equal bytes equally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkerParams {
    /// Number of the algorithm; 1 is FastCDC 2020, normalisation 1, seed 0, restarted after each hole.
    pub algorithm: u8,
    /// Shortest chunk in bytes, except before a hole or the end.
    pub len_min: u32,
    /// Average that the cut aims at, in bytes, a power of two.
    pub len_avg: u32,
    /// Longest chunk in bytes.
    pub len_max: u32,
    /// Zero runs of at least this many bytes, aligned to 4 KiB, become holes.
    pub hole_min: u32,
}

/// What the bytes themselves say about their disk format, whatever a user declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatFacts {
    /// Format recognised from the content, such as `qcow2`; `raw` if none was.
    pub name: String,
    /// Size in bytes of the disk that a guest sees, if the content tells.
    pub virtual_size: Option<u64>,
}

/// A run of the image's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Segment {
    /// The bytes of one chunk.
    Chunk {
        /// Its id.
        id: ChunkId,
        /// Its length in bytes, 1 to [`CHUNK_LEN_MAX`].
        len: u32,
    },
    /// Zeros. No chunk, no bytes on the wire or on disk.
    Hole {
        /// Length in bytes, at least 1.
        len: u64,
    },
}

impl Segment {
    /// Bytes of the image that it covers.
    #[allow(clippy::len_without_is_empty)] // a segment is never empty
    pub fn len(&self) -> u64 {
        match *self {
            Self::Chunk { len, .. } => len.into(),
            Self::Hole { len } => len,
        }
    }
}

/// A whole image's layout and fingerprints.
///
/// Invariants: the segments cover `size` bytes exactly, no two holes touch, and equal values have
/// equal encodings, so that [`Manifest::id`] is an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    chunker: ChunkerParams,
    size: u64,
    md5: [u8; 16],
    sha512: [u8; 64],
    format: FormatFacts,
    segments: Vec<Segment>,
}

impl Manifest {
    /// Checks the invariants; `size` is the sum of the segments.
    pub fn new(
        chunker: ChunkerParams,
        md5: [u8; 16],
        sha512: [u8; 64],
        format: FormatFacts,
        segments: Vec<Segment>,
    ) -> Result<Self, DecodeError> {
        let mut size = 0u64;
        let mut after_hole = false;
        for segment in &segments {
            let hole = matches!(segment, Segment::Hole { .. });
            if segment.len() == 0 {
                return Err(DecodeError::Invalid {
                    what: "segment length",
                    rule: "it is 0",
                });
            }
            if !hole && segment.len() > CHUNK_LEN_MAX.into() {
                return Err(DecodeError::TooLarge {
                    what: "segment length",
                    value: segment.len(),
                    max: CHUNK_LEN_MAX.into(),
                });
            }
            if hole && after_hole {
                return Err(HOLES_TOUCH);
            }
            after_hole = hole;
            size = size
                .checked_add(segment.len())
                .filter(|&s| s <= IMAGE_SIZE_MAX)
                .ok_or(DecodeError::Invalid {
                    what: "image size",
                    rule: "it exceeds 16 TiB",
                })?;
        }
        if format.name.len() > FORMAT_NAME_LEN_MAX {
            return Err(DecodeError::Invalid {
                what: "format name",
                rule: "it is too long",
            });
        }
        Ok(Self {
            chunker,
            size,
            md5,
            sha512,
            format,
            segments,
        })
    }

    /// How the image was cut.
    pub fn chunker(&self) -> ChunkerParams {
        self.chunker
    }

    /// Bytes of the image, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the image that are not holes.
    pub fn data_size(&self) -> u64 {
        self.chunks().map(|(_, len)| u64::from(len)).sum()
    }

    /// MD5 of the image's bytes.
    pub fn md5(&self) -> &[u8; 16] {
        &self.md5
    }

    /// SHA-512 of the image's bytes.
    pub fn sha512(&self) -> &[u8; 64] {
        &self.sha512
    }

    /// What the content says about its format.
    pub fn format(&self) -> &FormatFacts {
        &self.format
    }

    /// The segments in order of the image's bytes.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Every chunk that the image needs with its length, in order, repeats included.
    pub fn chunks(&self) -> impl Iterator<Item = (ChunkId, u32)> {
        self.segments.iter().filter_map(|segment| match *segment {
            Segment::Chunk { id, len } => Some((id, len)),
            Segment::Hole { .. } => None,
        })
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160 + self.segments.len() * 36);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.push(self.chunker.algorithm);
        for value in [
            self.chunker.len_min,
            self.chunker.len_avg,
            self.chunker.len_max,
            self.chunker.hole_min,
        ] {
            put_varint(&mut out, value.into());
        }
        put_varint(&mut out, self.size);
        out.extend_from_slice(&self.md5);
        out.extend_from_slice(&self.sha512);
        put_bytes(&mut out, self.format.name.as_bytes());
        match self.format.virtual_size {
            None => out.push(0),
            Some(size) => {
                out.push(1);
                put_varint(&mut out, size);
            }
        }
        put_varint(&mut out, self.segments.len() as u64);
        for segment in &self.segments {
            match segment {
                Segment::Chunk { id, len } => {
                    out.push(KIND_CHUNK);
                    put_varint(&mut out, (*len).into());
                    out.extend_from_slice(id.as_bytes());
                }
                Segment::Hole { len } => {
                    out.push(KIND_HOLE);
                    put_varint(&mut out, *len);
                }
            }
        }
        out
    }

    /// The id of the canonical encoding.
    pub fn id(&self) -> ManifestId {
        ManifestId::of(&self.encode())
    }

    /// Decodes foreign bytes. Memory is at most 7 times the input's length, while the list of segments grows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.array("manifest magic")? != MAGIC {
            return Err(DecodeError::Invalid {
                what: "manifest",
                rule: "the magic is missing",
            });
        }
        match reader.u8("manifest version")? {
            VERSION => {}
            other => {
                return Err(DecodeError::Unknown {
                    what: "manifest version",
                    value: other.into(),
                });
            }
        }
        let algorithm = reader.u8("chunker algorithm")?;
        let mut param = || {
            reader
                .varint(u32::MAX.into(), "chunker parameter")
                .map(|v| v as u32)
        };
        let chunker = ChunkerParams {
            algorithm,
            len_min: param()?,
            len_avg: param()?,
            len_max: param()?,
            hole_min: param()?,
        };
        let size = reader.varint(IMAGE_SIZE_MAX, "image size")?;
        let md5 = reader.array("MD5")?;
        let sha512 = reader.array("SHA-512")?;
        let name = reader
            .string(FORMAT_NAME_LEN_MAX, "format name")?
            .to_owned();
        let virtual_size = match reader.u8("virtual size")? {
            0 => None,
            1 => Some(reader.varint(u64::MAX, "virtual size")?),
            _ => {
                return Err(DecodeError::Invalid {
                    what: "virtual size",
                    rule: "flag is 0 or 1",
                });
            }
        };
        let count = reader.varint(bytes.len() as u64, "segment count")?;
        let mut segments = Vec::new();
        for _ in 0..count {
            segments.push(match reader.u8("segment kind")? {
                KIND_CHUNK => {
                    let len = reader.varint(CHUNK_LEN_MAX.into(), "segment length")? as u32;
                    Segment::Chunk {
                        len,
                        id: ChunkId::from_bytes(reader.array("chunk id")?),
                    }
                }
                // Here and not only at the end: two bytes of a hole make a segment of 40.
                KIND_HOLE if matches!(segments.last(), Some(Segment::Hole { .. })) => {
                    return Err(HOLES_TOUCH);
                }
                KIND_HOLE => Segment::Hole {
                    len: reader.varint(IMAGE_SIZE_MAX, "segment length")?,
                },
                other => {
                    return Err(DecodeError::Unknown {
                        what: "segment kind",
                        value: other.into(),
                    });
                }
            });
        }
        reader.finish("manifest")?;
        let format = FormatFacts { name, virtual_size };
        let manifest = Self::new(chunker, md5, sha512, format, segments)?;
        if manifest.size != size {
            return Err(DecodeError::Invalid {
                what: "image size",
                rule: "it is not the sum of the segments",
            });
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment() -> impl Strategy<Value = Segment> {
        prop_oneof![
            (any::<u64>(), 1..=CHUNK_LEN_MAX).prop_map(|(n, len)| Segment::Chunk {
                id: ChunkId::of(&n.to_le_bytes()),
                len
            }),
            (1u64..1 << 40).prop_map(|len| Segment::Hole { len }),
        ]
    }

    prop_compose! {
        fn manifest()(
            mut segments in proptest::collection::vec(segment(), 0..50),
            virtual_size: Option<u64>,
            md5: [u8; 16],
        ) -> Manifest {
            segments.dedup_by_key(|s| matches!(s, Segment::Hole { .. }).then_some(()).ok_or(s.len()));
            let chunker = ChunkerParams {
                algorithm: 1, len_min: 16384, len_avg: 65536, len_max: 262_144, hole_min: 4096,
            };
            let format = FormatFacts { name: "qcow2".into(), virtual_size };
            Manifest::new(chunker, md5, [7; 64], format, segments).expect("valid segments")
        }
    }

    proptest! {
        #[test]
        fn round_trip(manifest in manifest()) {
            let bytes = manifest.encode();
            prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        }

        #[test]
        fn accepted_bytes_are_canonical(
            manifest in manifest(),
            at: prop::sample::Index,
            flip in 1u8..,
        ) {
            let mut bytes = manifest.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(other) = Manifest::decode(&bytes) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }

        #[test]
        fn truncation_is_refused(manifest in manifest(), at: prop::sample::Index) {
            let bytes = manifest.encode();
            prop_assert!(Manifest::decode(&bytes[..at.index(bytes.len())]).is_err());
        }
    }

    #[test]
    fn unknown_kinds_and_versions_are_refused_by_number() {
        let chunker = ChunkerParams {
            algorithm: 1,
            len_min: 1,
            len_avg: 1,
            len_max: 1,
            hole_min: 1,
        };
        let format = FormatFacts {
            name: String::new(),
            virtual_size: None,
        };
        let segments = vec![Segment::Hole { len: 5 }];
        let manifest = Manifest::new(chunker, [0; 16], [0; 64], format, segments).unwrap();
        let mut bytes = manifest.encode();
        let kind = bytes.len() - 2;
        bytes[kind] = 3;
        assert_eq!(
            Manifest::decode(&bytes),
            Err(DecodeError::Unknown {
                what: "segment kind",
                value: 3
            })
        );
        bytes[4] = 2;
        assert_eq!(
            Manifest::decode(&bytes),
            Err(DecodeError::Unknown {
                what: "manifest version",
                value: 2
            })
        );
    }

    #[test]
    fn holes_that_touch_are_refused_at_once() {
        let chunker = ChunkerParams {
            algorithm: 1,
            len_min: 1,
            len_avg: 1,
            len_max: 1,
            hole_min: 1,
        };
        let format = FormatFacts {
            name: String::new(),
            virtual_size: None,
        };
        let one = vec![Segment::Hole { len: 5 }];
        let manifest = Manifest::new(chunker, [0; 16], [0; 64], format, one).unwrap();
        let mut bytes = manifest.encode();
        let count = bytes.len() - 3;
        bytes[count] = 9;
        bytes.push(KIND_HOLE);
        // Not only when all nine have been read.
        assert_eq!(Manifest::decode(&bytes), Err(HOLES_TOUCH));
    }

    #[test]
    fn a_size_of_2_to_the_60_is_refused() {
        let segments = vec![Segment::Hole { len: 1 << 60 }];
        let chunker = ChunkerParams {
            algorithm: 1,
            len_min: 1,
            len_avg: 1,
            len_max: 1,
            hole_min: 1,
        };
        let format = FormatFacts {
            name: String::new(),
            virtual_size: None,
        };
        assert!(Manifest::new(chunker, [0; 16], [0; 64], format, segments).is_err());
    }
}
