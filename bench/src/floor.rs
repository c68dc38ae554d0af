//! The least that taking an image in can cost: its hashes, its cuts and its compression, called one
//! after another in one thread on bytes in memory, with no store, queue or network around them.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use md5::Md5;
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha512};
use vitrail_chunkstore::Options;
use vitrail_chunkstore::chunker::{Chunker, PARAMS, Piece};
use vitrail_chunkstore::frame::Encoder;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::id::ChunkId;

const BLOCK_LEN: usize = 1 << 20;

/// CPU time of each kind of work on one image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// MD5 of all bytes.
    pub md5: Duration,
    /// SHA-512 of all bytes.
    pub sha512: Duration,
    /// Finding zero runs and chunk boundaries.
    pub cut: Duration,
    /// BLAKE3 of the chunks.
    pub blake3: Duration,
    /// zstd of the chunks that were not seen before, in frames of the store's size.
    pub compress: Duration,
}

impl Work {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.md5 + self.sha512 + self.cut + self.blake3 + self.compress
    }
}

/// The work on several images in turn; remembers the chunks it has seen, as a store would.
pub struct Floor {
    seen: HashSet<ChunkId>,
    encoder: Encoder,
    frame: Vec<VerifiedChunk>,
    frame_len: u32,
    frame_len_max: u32,
}

impl Floor {
    /// With the store's default parameters.
    pub fn new() -> Result<Self> {
        let options = Options::default();
        Ok(Self {
            seen: HashSet::new(),
            encoder: Encoder::new(options.zstd_level)?,
            frame: Vec::new(),
            frame_len: 0,
            frame_len_max: options.frame_len,
        })
    }

    /// Does the work on one image file. Reading the file is not counted.
    pub fn ingest(&mut self, image: &Path) -> Result<Work> {
        let mut work = Work::default();
        let (mut md5, mut sha512) = (Md5::new(), Sha512::new());
        let mut chunker = Chunker::new(PARAMS);
        let mut pieces = Vec::new();
        let mut file = File::open(image).with_context(|| format!("open {}", image.display()))?;
        let mut block = vec![0; BLOCK_LEN];
        loop {
            let len = file.read(&mut block)?;
            if len == 0 {
                break;
            }
            let bytes = &block[..len];
            timed(&mut work.md5, || md5.update(bytes));
            timed(&mut work.sha512, || sha512.update(bytes));
            timed(&mut work.cut, || {
                chunker.push(bytes, &mut |piece| pieces.push(piece))
            });
            self.store(&mut pieces, &mut work)?;
        }
        timed(&mut work.cut, || {
            chunker.finish(&mut |piece| pieces.push(piece))
        });
        self.store(&mut pieces, &mut work)?;
        self.close_frame(&mut work)?;
        std::hint::black_box((md5.finalize(), sha512.finalize()));
        Ok(work)
    }

    fn store(&mut self, pieces: &mut Vec<Piece>, work: &mut Work) -> Result<()> {
        for piece in pieces.drain(..) {
            let Piece::Data(bytes) = piece else { continue };
            let chunk = timed(&mut work.blake3, || VerifiedChunk::hash(bytes))?;
            if !self.seen.insert(chunk.id()) {
                continue;
            }
            if self.frame_len + chunk.len() > self.frame_len_max {
                self.close_frame(work)?;
            }
            self.frame_len += chunk.len();
            self.frame.push(chunk);
        }
        Ok(())
    }

    fn close_frame(&mut self, work: &mut Work) -> Result<()> {
        if !self.frame.is_empty() {
            std::hint::black_box(timed(&mut work.compress, || {
                self.encoder.encode(&self.frame)
            })?);
            self.frame.clear();
            self.frame_len = 0;
        }
        Ok(())
    }
}

/// Runs `work` and adds the CPU time that it took this thread to `total`.
fn timed<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let before = thread_cpu();
    let result = work();
    *total += thread_cpu().saturating_sub(before);
    result
}

/// CPU time of the calling thread so far.
pub fn thread_cpu() -> Duration {
    // The clock never runs backwards nor below zero.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_pass_compresses_nothing() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text: Vec<u8> = (0..3_000_000_u32)
            .flat_map(|i| (i / 7).to_le_bytes())
            .collect();
        std::io::Write::write_all(&mut file, &text).unwrap();
        let mut floor = Floor::new().unwrap();
        let first = floor.ingest(file.path()).unwrap();
        let second = floor.ingest(file.path()).unwrap();
        assert!(first.compress > Duration::ZERO && first.md5 > Duration::ZERO);
        assert_eq!(second.compress, Duration::ZERO);
    }
}
