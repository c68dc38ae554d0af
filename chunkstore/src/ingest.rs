//! Taking an image in: one pass over a stream, with the work in parallel stages.
//!
//! ```text
//! push ─┬─ MD5
//!       ├─ SHA-512
//!       └─ cut, BLAKE3, ask the store ── encode, write
//! ```
//! Each arrow is a short bounded queue, so a slow stage slows `push`. MD5 and SHA-512 cost more than all the
//! rest of an image that the store has already, so they get a thread each.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use md5::Md5;
use sha2::{Digest, Sha512};
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::codec::DecodeError;
use vitrail_proto::id::ManifestId;
use vitrail_proto::manifest::{FormatFacts, IMAGE_SIZE_MAX, MANIFEST_LEN_MAX, Manifest, Segment};

use crate::chunker::{Chunker, PARAMS, Piece};
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::memory::Reservation;
use crate::store::Store;
use crate::writer::Writer;

/// Bytes that the stages work on at once.
const BLOCK_LEN: usize = 1024 * 1024;
/// Blocks that may wait before each stage.
const QUEUE_BLOCKS: usize = 4;
/// Bytes of new chunks that go to the writer together, after one question to the index.
const BATCH_LEN: usize = 1024 * 1024;
/// Memory of one ingest: blocks in queues and in hand, the cutter's tail, two batches waiting and one in
/// hand, a frame, and the encoder. The list of segments and the lease come on top: 1.3 MB per GB of
/// data.
pub const INGEST_MEMORY: u64 = 20 * 1024 * 1024;

/// Segments of an image, so that its manifest is short enough: data of 1 TiB at the usual chunk length.
const SEGMENTS_MAX: u64 = MANIFEST_LEN_MAX / 36;

/// An image being taken in. Dropping it abandons the image and waits for its threads; chunks already
/// stored are collected later.
pub struct Ingest {
    block: BytesMut,
    stages: Option<Stages>,
    store: Store,
    lease: Arc<Lease>,
    len: u64,
    _memory: Reservation,
}

struct Stages {
    md5: Stage<[u8; 16]>,
    sha512: Stage<[u8; 64]>,
    cut: Stage<Result<Vec<Segment>>>,
    write: JoinHandle<Result<Writer>>,
}

struct Stage<T> {
    name: &'static str,
    blocks: SyncSender<Bytes>,
    thread: JoinHandle<T>,
}

/// An image that is in the store, durably.
pub struct Ingested {
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// Its manifest's id.
    pub id: ManifestId,
    /// Bytes that it added to packs.
    pub stored_bytes: u64,
    /// Keeps it until the caller has made it a root of collections.
    pub lease: Arc<Lease>,
}

impl Ingest {
    /// Begins. Waits until the memory budget has [`INGEST_MEMORY`] free.
    pub fn begin(store: &Store) -> Result<Self> {
        let memory = store.memory().reserve(INGEST_MEMORY);
        let lease = Arc::new(store.lease());
        let (chunks, new_chunks) = sync_channel::<Vec<VerifiedChunk>>(1);
        let writer = store.writer(lease.clone())?;
        let cutter = Cutter {
            store: store.clone(),
            lease: lease.clone(),
            segments: Vec::new(),
            batch: Vec::new(),
            batch_len: 0,
            out: chunks,
        };
        let stages = Stages {
            md5: Stage::spawn("ingest-md5", digest::<Md5, 16>)?,
            sha512: Stage::spawn("ingest-sha512", digest::<Sha512, 64>)?,
            cut: Stage::spawn("ingest-cut", |blocks| cutter.run(blocks))?,
            write: spawn("ingest-write", || write(writer, new_chunks))?,
        };
        Ok(Self {
            block: BytesMut::with_capacity(BLOCK_LEN),
            stages: Some(stages),
            store: store.clone(),
            lease,
            len: 0,
            _memory: memory,
        })
    }

    /// Bytes taken so far.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Takes the next bytes of the image, of which there may be [`IMAGE_SIZE_MAX`]. Waits while the stages are busy; fails with what failed in
    /// them, such as a full disk.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        at_most("image size", self.len, IMAGE_SIZE_MAX)?;
        while !bytes.is_empty() {
            let fill = bytes.len().min(BLOCK_LEN - self.block.len());
            self.block.extend_from_slice(&bytes[..fill]);
            bytes = &bytes[fill..];
            if self.block.len() == BLOCK_LEN {
                self.send_block()?;
            }
        }
        Ok(())
    }

    fn send_block(&mut self) -> Result<()> {
        let block = std::mem::replace(&mut self.block, BytesMut::with_capacity(BLOCK_LEN)).freeze();
        let Some(stages) = &self.stages else {
            return Err(Error::Panicked("ingest"));
        };
        let sent = stages.md5.blocks.send(block.clone()).is_ok()
            && stages.sha512.blocks.send(block.clone()).is_ok()
            && stages.cut.blocks.send(block).is_ok();
        if sent {
            return Ok(());
        }
        // A stage has ended early; its result says why.
        match self.stages.take().map(Stages::join) {
            Some(Err(error)) => Err(error),
            _ => Err(Error::Panicked("ingest")),
        }
    }

    /// Ends the image. On return its chunks and manifest are durable.
    pub fn finish(mut self, format: FormatFacts) -> Result<Ingested> {
        self.send_block()?;
        let stages = self.stages.take().ok_or(Error::Panicked("ingest"))?;
        let mut parts = stages.join()?;
        parts.writer.commit()?;
        let manifest = Manifest::new(PARAMS, parts.md5, parts.sha512, format, parts.segments)?;
        let id = self.store.put_manifest(&manifest, &self.lease)?;
        Ok(Ingested {
            manifest: Arc::new(manifest),
            id,
            stored_bytes: parts.writer.stored_bytes(),
            lease: self.lease.clone(),
        })
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // Without a commit. What went wrong in a stage does not matter any more.
        drop(self.stages.take().map(Stages::join));
    }
}

/// What the stages made of a stream.
struct Parts {
    md5: [u8; 16],
    sha512: [u8; 64],
    segments: Vec<Segment>,
    writer: Writer,
}

impl Stages {
    /// Ends the streams and waits for the results; the writer's error comes first since the others
    /// follow from it.
    fn join(self) -> Result<Parts> {
        let md5 = self.md5.join();
        let sha512 = self.sha512.join();
        let segments = self.cut.join();
        let writer = self.write.join();
        let writer = writer.map_err(|_| Error::Panicked("ingest-write"))??;
        Ok(Parts {
            md5: md5?,
            sha512: sha512?,
            segments: segments??,
            writer,
        })
    }
}

impl<T: Send + 'static> Stage<T> {
    fn spawn(
        name: &'static str,
        run: impl FnOnce(Receiver<Bytes>) -> T + Send + 'static,
    ) -> Result<Self> {
        let (blocks, receiver) = sync_channel(QUEUE_BLOCKS);
        Ok(Self {
            name,
            blocks,
            thread: spawn(name, || run(receiver))?,
        })
    }

    fn join(self) -> Result<T> {
        drop(self.blocks);
        self.thread.join().map_err(|_| Error::Panicked(self.name))
    }
}

fn at_most(what: &'static str, value: u64, max: u64) -> Result<()> {
    if value > max {
        return Err(DecodeError::TooLarge { what, value, max }.into());
    }
    Ok(())
}

fn spawn<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let builder = std::thread::Builder::new().name(name.into());
    builder
        .spawn(run)
        .map_err(|e| Error::io(format!("starting {name}"), e))
}

fn digest<D: Digest, const N: usize>(blocks: Receiver<Bytes>) -> [u8; N] {
    let mut digest = D::new();
    for block in blocks {
        digest.update(&block);
    }
    let mut out = [0; N];
    out.copy_from_slice(&digest.finalize());
    out
}

/// Turns blocks into segments and finds the chunks that the store misses.
struct Cutter {
    store: Store,
    lease: Arc<Lease>,
    segments: Vec<Segment>,
    batch: Vec<VerifiedChunk>,
    batch_len: usize,
    out: SyncSender<Vec<VerifiedChunk>>,
}

impl Cutter {
    fn run(mut self, blocks: Receiver<Bytes>) -> Result<Vec<Segment>> {
        let mut chunker = Chunker::new(PARAMS);
        let mut pieces = Vec::new();
        for block in blocks {
            chunker.push(&block, &mut |piece| pieces.push(piece));
            self.take(&mut pieces)?;
        }
        chunker.finish(&mut |piece| pieces.push(piece));
        self.take(&mut pieces)?;
        self.send_batch()?;
        Ok(self.segments)
    }

    fn take(&mut self, pieces: &mut Vec<Piece>) -> Result<()> {
        for piece in pieces.drain(..) {
            match piece {
                Piece::Hole(len) => self.segments.push(Segment::Hole { len }),
                Piece::Data(bytes) => {
                    let chunk = VerifiedChunk::hash(bytes)?;
                    self.segments.push(Segment::Chunk {
                        id: chunk.id(),
                        len: chunk.len(),
                    });
                    if self.lease.add_chunk(chunk.id()) {
                        self.batch_len += chunk.bytes().len();
                        self.batch.push(chunk);
                    }
                }
            }
            if self.batch_len >= BATCH_LEN {
                self.send_batch()?;
            }
        }
        at_most(
            "number of segments",
            self.segments.len() as u64,
            SEGMENTS_MAX,
        )
    }

    fn send_batch(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_len = 0;
        let ids: Vec<_> = batch.iter().map(VerifiedChunk::id).collect();
        let missing = self.store.missing(&ids)?;
        let new: Vec<_> = missing.into_iter().map(|i| batch[i].clone()).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.out
            .send(new)
            .map_err(|_| Error::Panicked("ingest-write"))
    }
}

fn write(mut writer: Writer, batches: Receiver<Vec<VerifiedChunk>>) -> Result<Writer> {
    for chunk in batches.into_iter().flatten() {
        writer.put(chunk)?;
    }
    Ok(writer)
}
