//! Reading an image back, whole or in part.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use vitrail_proto::id::ManifestId;
use vitrail_proto::manifest::{Manifest, Segment};

use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::store::Store;

/// Most bytes of data in a unit, unless a single segment has more.
pub const UNIT_DATA_MAX: u64 = 1024 * 1024;
/// Most bytes of a hole in a unit.
const UNIT_HOLE_MAX: u64 = 16 * 1024 * 1024;

static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// Reads one image. While it exists, a collection keeps the image's chunks.
///
/// It is stateless: a caller asks for the [`Unit`]s of a range and reads them in any order, from any
/// threads, which is how read-ahead is made.
pub struct ImageReader {
    store: Store,
    id: ManifestId,
    manifest: Arc<Manifest>,
    /// End of each segment in the image.
    ends: Vec<u64>,
    /// Chunk segments before each segment, and in all.
    chunks_before: Vec<u32>,
    _lease: Lease,
}

/// A piece of a range that is read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Bytes of the image, never empty.
    pub range: Range<u64>,
    segments: Range<usize>,
}

impl ImageReader {
    /// Opens an image whose manifest the store has.
    pub fn open(store: &Store, id: ManifestId) -> Result<Self> {
        let lease = store.lease();
        lease.add_manifest(id);
        let manifest = store.manifest(id)?;
        let (mut end, mut chunks) = (0, 0);
        let mut ends = Vec::with_capacity(manifest.segments().len());
        let mut chunks_before = vec![0];
        for segment in manifest.segments() {
            end += segment.len();
            chunks += u32::from(matches!(segment, Segment::Chunk { .. }));
            ends.push(end);
            chunks_before.push(chunks);
        }
        Ok(Self {
            store: store.clone(),
            id,
            manifest,
            ends,
            chunks_before,
            _lease: lease,
        })
    }

    /// The image's manifest.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The unit that starts at `range.start` and stays in `range`; none when the range is empty or
    /// starts at the end of the image.
    pub fn unit(&self, range: Range<u64>) -> Option<Unit> {
        let limit = range.end.min(self.manifest.size());
        if range.start >= limit {
            return None;
        }
        let first = self.ends.partition_point(|&end| end <= range.start);
        let segments = self.manifest.segments();
        let hole = matches!(segments[first], Segment::Hole { .. });
        let most = if hole { UNIT_HOLE_MAX } else { UNIT_DATA_MAX };
        let limit = limit.min(range.start + most);
        // Whole segments as long as they fit and are of one kind; at least a part of the first.
        let mut last = first;
        while last + 1 < segments.len()
            && self.ends[last] < limit
            && self.ends[last + 1] <= limit
            && matches!(segments[last + 1], Segment::Hole { .. }) == hole
        {
            last += 1;
        }
        let end = self.ends[last].min(limit);
        Some(Unit {
            range: range.start..end,
            segments: first..last + 1,
        })
    }

    /// The indexes of a unit's chunks among all chunk segments of the manifest.
    pub fn chunk_range(&self, unit: &Unit) -> Range<u32> {
        self.chunks_before[unit.segments.start]..self.chunks_before[unit.segments.end]
    }

    /// The bytes of a unit of this reader, every chunk verified, in pieces that share memory with
    /// the store's cache.
    pub fn read(&self, unit: &Unit) -> Result<Vec<Bytes>> {
        let segments = &self.manifest.segments()[unit.segments.clone()];
        let ids: Vec<_> = segments
            .iter()
            .filter_map(|segment| match segment {
                Segment::Chunk { id, .. } => Some(*id),
                _ => None,
            })
            .collect();
        let mut chunks = self.store.chunks(&ids)?.into_iter();
        let mut pieces = Vec::new();
        for (segment, end) in segments.iter().zip(&self.ends[unit.segments.clone()]) {
            let start = end - segment.len();
            let wanted = unit.range.start.max(start) - start..unit.range.end.min(*end) - start;
            match *segment {
                Segment::Chunk { id, len } => {
                    // The chunk is right, but a manifest from elsewhere may have lied about its length.
                    let chunk = chunks.next().filter(|chunk| chunk.len() == len);
                    let chunk = chunk
                        .ok_or_else(|| self.damaged(format!("chunk {id} has not {len} bytes")))?;
                    pieces.push(
                        chunk
                            .bytes()
                            .slice(wanted.start as usize..wanted.end as usize),
                    );
                }
                Segment::Hole { .. } => {
                    let mut left = wanted.end - wanted.start;
                    while left > 0 {
                        let len = left.min(ZEROS.len() as u64);
                        pieces.push(Bytes::from_static(&ZEROS[..len as usize]));
                        left -= len;
                    }
                }
                _ => return Err(self.damaged("a segment of unknown kind".into())),
            }
        }
        Ok(pieces)
    }

    fn damaged(&self, reason: String) -> Error {
        Error::DamagedManifest {
            id: self.id,
            reason,
        }
    }
}
