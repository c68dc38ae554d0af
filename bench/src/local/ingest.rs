//! Taking images in: CPU time, wall time and memory, and the bytes on disk afterwards.

use std::path::Path;

use anyhow::{Context, Result};

use super::Run;
use crate::corpus::{Corpus, SMALL};
use crate::disk;
use crate::floor::Floor;
use crate::journal::{Better, Measure, Unit};
use crate::machine::version;
use crate::peers::borg::Borg;
use crate::peers::casync::Casync;
use crate::peers::glance::{Glance, Setup};
use crate::peers::restic::Restic;
use crate::peers::vitrail::Vitrail;
use crate::peers::{Cost, Place, Store, free_port};
use crate::report::VITRAIL;

const STORE_BYTES: Measure = Measure {
    key: "store.bytes",
    title: "Disk space of all raw images: data, index, metadata",
    unit: Unit::Bytes,
    better: Better::Less,
};
const FIRST_CPU: Measure = Measure {
    key: "ingest.first.cpu",
    title: "Ingest of a raw image into an empty store, CPU time",
    unit: Unit::SecondsPerGb,
    better: Better::Less,
};
const FIRST_WALL: Measure = Measure {
    key: "ingest.first.wall",
    title: "Ingest of a raw image into an empty store, time",
    unit: Unit::Seconds,
    better: Better::Less,
};
const FIRST_RSS: Measure = Measure {
    key: "ingest.first.rss",
    title: "Ingest of a raw image into an empty store, peak memory",
    unit: Unit::Bytes,
    better: Better::Less,
};
const NEXT_CPU: Measure = Measure {
    key: "ingest.next.cpu",
    title: "Ingest of its updated version, CPU time",
    unit: Unit::SecondsPerGb,
    better: Better::Less,
};
const NEXT_WALL: Measure = Measure {
    key: "ingest.next.wall",
    title: "Ingest of its updated version, time",
    unit: Unit::Seconds,
    better: Better::Less,
};
const FLOOR_PART: Measure = Measure {
    key: "floor.part",
    title: "Part of the floor of the first image, CPU time",
    unit: Unit::SecondsPerGb,
    better: Better::Less,
};

/// Makes an empty store at a path.
type Open = fn(&Run, &Path) -> Result<Box<dyn Store>>;

const SUBJECTS: [(&str, Open); 6] = [
    (VITRAIL, |run, dir| {
        Ok(Box::new(Vitrail::start(&run.vitraild, dir)?))
    }),
    ("glance", |run, dir| {
        Ok(Box::new(Glance::start(
            &run.cache,
            dir,
            &Place::here(),
            free_port()?,
            Setup::AsShipped,
        )?))
    }),
    ("borg", |_, dir| Ok(Box::new(Borg::open(dir, "lz4")?))),
    ("borg zstd,3", |_, dir| {
        Ok(Box::new(Borg::open(dir, "zstd,3")?))
    }),
    ("restic", |_, dir| Ok(Box::new(Restic::open(dir)?))),
    ("casync", |_, dir| Ok(Box::new(Casync::open(dir)?))),
];

pub(super) fn run(run: &mut Run, corpus: &Corpus) -> Result<()> {
    let mut subjects = SUBJECTS.to_vec();
    for repetition in 0..run.repetitions {
        eprintln!(
            "ingest: repetition {} of {}",
            repetition + 1,
            run.repetitions
        );
        floor(run, corpus)?;
        let mut missing = Vec::new();
        for &(name, open) in &subjects {
            eprintln!("ingest: {name}");
            if let Err(error) = measure(run, corpus, name, open) {
                run.journal.missing(name, &error)?;
                missing.push(name);
            }
        }
        subjects.retain(|(name, _)| !missing.contains(name));
        if !subjects.is_empty() {
            subjects.rotate_left(1);
        }
    }
    for program in ["borg", "casync"] {
        run.journal
            .version(program, &version(program, &["--version"]))?;
    }
    run.journal
        .version("restic", &version("restic", &["version"]))?;
    run.journal.note(
        "CPU time per GB counts 10⁹ bytes of the raw file, holes included. Of servers it is the server's alone, \
         of commands all of it. The floor is the same hashes, cuts and compression called alone in one thread.",
    )?;
    run.journal.note(
        "Uploads go through curl on loopback. Vitrail syncs an image to disk before it acknowledges it; Glance, \
         borg, restic and casync are used as they come. Disk space is what the file system allocates, after a stop.",
    )
}

/// All raw images into one fresh store.
fn measure(run: &mut Run, corpus: &Corpus, name: &str, open: Open) -> Result<()> {
    let dir = run.fresh("store")?;
    disk::settle();
    let mut store = open(run, &dir)?;
    for (index, image) in SMALL.iter().enumerate() {
        let image = corpus.raw(image);
        let cost = store
            .ingest(&image)
            .with_context(|| format!("take in {}", image.display()))?;
        record(run, name, index == 0, cost, gb(&image)?)?;
    }
    let bytes = store.close()?;
    run.journal.value(&STORE_BYTES, name, bytes as f64)?;
    run.fresh("store").map(|_| ())
}

fn record(run: &mut Run, name: &str, is_first: bool, cost: Cost, gb: f64) -> Result<()> {
    let (cpu, wall) = if is_first {
        (&FIRST_CPU, &FIRST_WALL)
    } else {
        (&NEXT_CPU, &NEXT_WALL)
    };
    run.journal.value(cpu, name, cost.cpu.as_secs_f64() / gb)?;
    run.journal.value(wall, name, cost.wall.as_secs_f64())?;
    if is_first {
        run.journal.value(&FIRST_RSS, name, cost.peak_rss as f64)?;
    }
    Ok(())
}

fn floor(run: &mut Run, corpus: &Corpus) -> Result<()> {
    let mut floor = Floor::new()?;
    for (index, image) in SMALL.iter().enumerate() {
        let image = corpus.raw(image);
        let work = floor.ingest(&image)?;
        let gb = gb(&image)?;
        let measure = if index == 0 { &FIRST_CPU } else { &NEXT_CPU };
        run.journal
            .value(measure, "floor", work.total().as_secs_f64() / gb)?;
        if index == 0 {
            for (part, time) in [
                ("MD5", work.md5),
                ("SHA-512", work.sha512),
                ("cut", work.cut),
                ("BLAKE3", work.blake3),
                ("zstd", work.compress),
            ] {
                run.journal
                    .value(&FLOOR_PART, part, time.as_secs_f64() / gb)?;
            }
        }
    }
    Ok(())
}

/// Size of a file in 10⁹ bytes.
fn gb(image: &Path) -> Result<f64> {
    Ok(image.metadata()?.len() as f64 / 1e9)
}
