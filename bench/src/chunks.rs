//! What the sizes of chunks and frames cost: bytes in the store, bytes of an update, and manifests.
//!
//! The store's defaults are the subject, other sizes the peers.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use vitrail_chunkstore::Options as StoreOptions;
use vitrail_chunkstore::chunker::{Chunker, PARAMS, Piece};
use vitrail_chunkstore::frame::Encoder;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::id::ChunkId;
use vitrail_proto::manifest::{ChunkerParams, FormatFacts, Manifest, Segment};

use crate::corpus::{Corpus, SMALL};
use crate::journal::{Better, Journal, Measure, Unit};
use crate::local::Options;
use crate::peers::Cache;
use crate::report::{self, VITRAIL};

const fn bytes(key: &'static str, title: &'static str) -> Measure {
    Measure {
        key,
        title,
        unit: Unit::Bytes,
        better: Better::Less,
    }
}

static STORE: Measure = bytes("chunks.store", "By chunk size: frames of both raw images");
static UPDATE: Measure = bytes(
    "chunks.update",
    "By chunk size: chunks that the update adds, each compressed alone",
);
static MANIFEST: Measure = bytes(
    "chunks.manifest",
    "By chunk size: manifest of the raw image",
);
static FRAME: Measure = bytes("frames.store", "By frame size: frames of both raw images");

const KIB: u32 = 1024;

/// Runs over all sizes and publishes the results.
pub fn run(options: &Options, cache: &Cache) -> Result<()> {
    let corpus = Corpus::open(&options.corpus_dir(cache))?;
    let mut journal = Journal::begin(options.results(), "chunks")?;
    let default = StoreOptions::default();
    for len_avg in [16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB] {
        let subject = subject(len_avg, PARAMS.len_avg);
        eprintln!("chunks of {} KiB", len_avg / KIB);
        let params = ChunkerParams {
            len_min: len_avg / 4,
            len_avg,
            ..PARAMS
        };
        let mut sizes = Sizes::new(params, default.frame_len, default.zstd_level)?;
        for (index, name) in SMALL.iter().enumerate() {
            let image = sizes.add(&corpus.raw(name))?;
            if index == 0 {
                journal.value(&MANIFEST, &subject, image.manifest as f64)?;
            } else {
                journal.value(&UPDATE, &subject, image.new_alone as f64)?;
            }
        }
        journal.value(&STORE, &subject, sizes.framed as f64)?;
    }
    for frame_len in [256 * KIB, 512 * KIB, 1024 * KIB] {
        eprintln!("frames of {} KiB", frame_len / KIB);
        let mut sizes = Sizes::new(PARAMS, frame_len, default.zstd_level)?;
        for name in SMALL {
            sizes.add(&corpus.raw(name))?;
        }
        let subject = subject(frame_len, default.frame_len);
        journal.value(&FRAME, &subject, sizes.framed as f64)?;
    }
    journal.note(&format!(
        "Vitrail's column is the default: chunks of {} KiB on average, frames of {} KiB, zstd level {}.",
        PARAMS.len_avg / KIB,
        default.frame_len / KIB,
        default.zstd_level,
    ))?;
    report::publish(&journal)
}

fn subject(len: u32, default: u32) -> String {
    if len == default {
        VITRAIL.to_owned()
    } else {
        format!("{} KiB", len / KIB)
    }
}

/// Bytes that images take, one after the other, with one set of parameters.
struct Sizes {
    params: ChunkerParams,
    frame_len: u32,
    seen: HashSet<ChunkId>,
    encoder: Encoder,
    /// Bytes of all frames so far.
    framed: u64,
}

/// Bytes of one image.
struct ImageSizes {
    /// Its manifest.
    manifest: u64,
    /// Its new chunks, each in a frame of its own.
    new_alone: u64,
}

impl Sizes {
    fn new(params: ChunkerParams, frame_len: u32, level: i32) -> Result<Self> {
        Ok(Self {
            params,
            frame_len,
            seen: HashSet::new(),
            encoder: Encoder::new(level)?,
            framed: 0,
        })
    }

    fn add(&mut self, image: &Path) -> Result<ImageSizes> {
        let mut file = File::open(image)?;
        let mut chunker = Chunker::new(self.params);
        let mut block = vec![0; 1 << 20];
        let (mut pieces, mut segments, mut frame) = (Vec::new(), Vec::new(), Vec::new());
        let mut new_alone = 0;
        loop {
            let len = file.read(&mut block)?;
            if len == 0 {
                break;
            }
            chunker.push(&block[..len], &mut |piece| pieces.push(piece));
            new_alone += self.take(&mut pieces, &mut segments, &mut frame)?;
        }
        chunker.finish(&mut |piece| pieces.push(piece));
        new_alone += self.take(&mut pieces, &mut segments, &mut frame)?;
        self.close(&mut frame)?;
        let facts = FormatFacts {
            name: "raw".to_owned(),
            virtual_size: None,
        };
        let manifest = Manifest::new(self.params, [0; 16], [0; 64], facts, segments)?;
        Ok(ImageSizes {
            manifest: manifest.encode().len() as u64,
            new_alone,
        })
    }

    /// Sorts pieces into segments and frames; the answer is the bytes of new chunks, each alone.
    fn take(
        &mut self,
        pieces: &mut Vec<Piece>,
        segments: &mut Vec<Segment>,
        frame: &mut Vec<VerifiedChunk>,
    ) -> Result<u64> {
        let mut new_alone = 0;
        for piece in pieces.drain(..) {
            let bytes = match piece {
                Piece::Hole(len) => {
                    segments.push(Segment::Hole { len });
                    continue;
                }
                Piece::Data(bytes) => bytes,
            };
            let chunk = VerifiedChunk::hash(bytes)?;
            let (id, len) = (chunk.id(), chunk.len());
            segments.push(Segment::Chunk { id, len });
            if !self.seen.insert(id) {
                continue;
            }
            new_alone += self
                .encoder
                .encode(std::slice::from_ref(&chunk))?
                .bytes
                .len() as u64;
            let frame_len: u32 = frame.iter().map(VerifiedChunk::len).sum();
            if frame_len + len > self.frame_len {
                self.close(frame)?;
            }
            frame.push(chunk);
        }
        Ok(new_alone)
    }

    fn close(&mut self, frame: &mut Vec<VerifiedChunk>) -> Result<()> {
        if !frame.is_empty() {
            self.framed += self.encoder.encode(frame)?.bytes.len() as u64;
            frame.clear();
        }
        Ok(())
    }
}
