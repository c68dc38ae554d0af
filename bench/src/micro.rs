//! The inner loops alone, on a real image: cutting, asking the index, and the manifest's encoding.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use fastcdc::v2020::FastCDC;
use vitrail_chunkstore::chunker::{Chunker, PARAMS, Piece};
use vitrail_chunkstore::{Ingest, Store};
use vitrail_proto::id::ChunkId;
use vitrail_proto::manifest::{FormatFacts, Manifest};

use crate::corpus::{Corpus, SMALL};
use crate::floor::thread_cpu;
use crate::journal::{Better, Journal, Measure, Unit};
use crate::local::Options;
use crate::peers::Cache;
use crate::report::{self, VITRAIL};

const CUT: Measure = Measure {
    key: "micro.cut",
    title: "Cutting data into chunks, per CPU second",
    unit: Unit::BytesPerSecond,
    better: Better::More,
};
const ZEROS: Measure = Measure {
    key: "micro.zeros",
    title: "Finding a long hole, per CPU second",
    unit: Unit::BytesPerSecond,
    better: Better::More,
};
const PRESENT: Measure = Measure {
    key: "micro.lookup.present",
    title: "Asking for a chunk that is there, in batches of 64, per chunk",
    unit: Unit::Seconds,
    better: Better::Less,
};
const ABSENT: Measure = Measure {
    key: "micro.lookup.absent",
    title: "Asking for a chunk that is not there, in batches of 64, per chunk",
    unit: Unit::Seconds,
    better: Better::Less,
};
const ENCODE: Measure = Measure {
    key: "micro.manifest.encode",
    title: "Encoding the image's manifest",
    unit: Unit::Seconds,
    better: Better::Less,
};
const DECODE: Measure = Measure {
    key: "micro.manifest.decode",
    title: "Decoding the image's manifest",
    unit: Unit::Seconds,
    better: Better::Less,
};

/// Data of the image that is cut, in bytes.
const SAMPLE_LEN: usize = 256 << 20;
const HOLE_LEN: usize = 256 << 20;
const BATCH: usize = 64;

/// Runs all of them and publishes their results.
pub fn run(options: &Options, cache: &Cache) -> Result<()> {
    let corpus = Corpus::open(&options.corpus_dir(cache))?;
    let mut journal = Journal::begin(options.results(), "micro")?;
    let sample = data_sample(&corpus)?;
    let (manifest, store, _scratch) = ingested(&corpus)?;
    for repetition in 0..options.repetitions() {
        eprintln!(
            "micro: repetition {} of {}",
            repetition + 1,
            options.repetitions()
        );
        cut(&mut journal, &sample)?;
        lookup(&mut journal, &store, &manifest)?;
        encoding(&mut journal, &manifest)?;
    }
    journal.note(&format!(
        "The manifest describes {} bytes in {} segments and takes {} bytes; the index holds {} chunks.",
        manifest.size(),
        manifest.segments().len(),
        manifest.encode().len(),
        store.stats()?.chunks,
    ))?;
    report::publish(&journal)
}

/// The image's first bytes without its long runs of zeros.
fn data_sample(corpus: &Corpus) -> Result<Vec<u8>> {
    let mut file = File::open(corpus.raw(SMALL[0]))?;
    let mut sample = Vec::with_capacity(SAMPLE_LEN);
    let mut block = vec![0; 1 << 20];
    while sample.len() < SAMPLE_LEN && file.read(&mut block)? > 0 {
        for page in block.chunks(4096) {
            if page.iter().any(|&byte| byte != 0) {
                sample.extend_from_slice(page);
            }
        }
    }
    Ok(sample)
}

/// The image in a store of its own.
fn ingested(corpus: &Corpus) -> Result<(Manifest, Store, tempfile::TempDir)> {
    let scratch = tempfile::tempdir()?;
    let store = Store::open(&scratch.path().join("store"), Default::default(), &[])?;
    let mut ingest = Ingest::begin(&store)?;
    let mut file = File::open(corpus.raw(SMALL[0]))?;
    let mut block = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut block)?;
        if len == 0 {
            break;
        }
        ingest.push(&block[..len])?;
    }
    let image = ingest.finish(FormatFacts {
        name: "raw".to_owned(),
        virtual_size: None,
    })?;
    let manifest = (*image.manifest).clone();
    Ok((manifest, store, scratch))
}

fn cut(journal: &mut Journal, sample: &[u8]) -> Result<()> {
    let ours = |bytes: &[u8]| {
        let mut chunker = Chunker::new(PARAMS);
        let mut total = 0;
        let mut take = |piece: Piece| {
            total += match piece {
                Piece::Data(bytes) => black_box(&bytes).len() as u64,
                Piece::Hole(len) => len,
            };
        };
        for block in bytes.chunks(1 << 20) {
            chunker.push(block, &mut take);
        }
        chunker.finish(&mut take);
        total
    };
    let rate = |len: usize, time: Duration| len as f64 / time.as_secs_f64();

    let time = cpu_time(|| assert_eq!(ours(sample), sample.len() as u64, "the cuts lose bytes"));
    journal.value(&CUT, VITRAIL, rate(sample.len(), time))?;
    let (min, avg, max) = (PARAMS.len_min, PARAMS.len_avg, PARAMS.len_max);
    let time = cpu_time(|| {
        let chunks = FastCDC::new(sample, min as usize, avg as usize, max as usize);
        black_box(chunks.map(|chunk| chunk.length).sum::<usize>());
    });
    journal.value(&CUT, "fastcdc alone", rate(sample.len(), time))?;

    let zeros = vec![0; HOLE_LEN];
    let time = cpu_time(|| assert_eq!(ours(&zeros), HOLE_LEN as u64, "the hole has another size"));
    journal.value(&ZEROS, VITRAIL, rate(HOLE_LEN, time))
}

fn lookup(journal: &mut Journal, store: &Store, manifest: &Manifest) -> Result<()> {
    let present: Vec<ChunkId> = manifest.chunks().map(|(id, _)| id).collect();
    let absent: Vec<ChunkId> = present
        .iter()
        .map(|id| ChunkId::of(id.as_bytes()))
        .collect();
    for (measure, ids, missing_wanted) in
        [(&PRESENT, &present, 0), (&ABSENT, &absent, absent.len())]
    {
        let start = Instant::now();
        let mut missing = 0;
        for batch in ids.chunks(BATCH) {
            missing += store.missing(batch)?.len();
        }
        let each = start.elapsed().as_secs_f64() / ids.len() as f64;
        anyhow::ensure!(
            missing == missing_wanted,
            "{missing} of {} chunks missing",
            ids.len()
        );
        journal.value(measure, VITRAIL, each)?;
    }
    Ok(())
}

fn encoding(journal: &mut Journal, manifest: &Manifest) -> Result<()> {
    const TIMES: u32 = 20;
    let encoded = Bytes::from(manifest.encode());
    let time = cpu_time(|| (0..TIMES).for_each(|_| drop(black_box(manifest.encode()))));
    journal.value(&ENCODE, VITRAIL, (time / TIMES).as_secs_f64())?;
    let mut decoded = None;
    let time = cpu_time(|| (0..TIMES).for_each(|_| decoded = Some(Manifest::decode(&encoded))));
    journal.value(&DECODE, VITRAIL, (time / TIMES).as_secs_f64())?;
    let decoded = decoded.context("nothing was decoded")??;
    anyhow::ensure!(&decoded == manifest, "the manifest came back changed");
    Ok(())
}

fn cpu_time(work: impl FnOnce()) -> Duration {
    let before = thread_cpu();
    work();
    thread_cpu().saturating_sub(before)
}
