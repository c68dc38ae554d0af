//! Is the ceiling of memory kept?
//!
//! Measured from outside: this test starts its own program again, with nothing else running in it.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[allow(dead_code)] // each test program uses a part of it
#[path = "store/support/mod.rs"]
mod support;

use std::process::Command;

use vitrail_chunkstore::gc::Collection;
use vitrail_chunkstore::{ImageReader, Ingest, Options, Store};

use support::images::{noise, text};
use support::{options, raw, verified};

const MIB: u64 = 1 << 20;
const CEILING: u64 = 96 * MIB;
/// What the program and its libraries take besides, with the readers' units in hand.
const ALLOWANCE: u64 = 64 * MIB;

#[test]
fn ingests_and_readers_stay_below_the_ceiling() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "work", "--ignored", "--nocapture"])
        .env("MALLOC_ARENA_MAX", "2")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let peak = text.lines().find_map(|line| line.strip_prefix("peak "));
    let peak: u64 = peak.expect("it prints its peak").parse().unwrap();
    println!(
        "{} MiB at most, for a ceiling of {}",
        peak / MIB,
        CEILING / MIB
    );
    assert!(peak <= CEILING + ALLOWANCE, "{peak}");
}

/// Takes 200 MiB in, twice at once, and reads it with several readers.
#[test]
#[ignore = "run in a process of its own by the other test"]
fn work() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        memory: CEILING,
        frame_len: 512 * 1024,
        pack_len: 64 * MIB,
        ..options()
    };
    let store = Store::open(directory.path(), options, &[]).unwrap();
    let parts: Vec<_> = (0..8)
        .map(|n| [noise(n, 3 << 20), text(n, 2 << 20)].concat())
        .collect();
    let id = std::thread::scope(|scope| {
        let ingests: Vec<_> = (0..2)
            .map(|which| {
                let (store, parts) = (&store, &parts);
                scope.spawn(move || {
                    let mut ingest = Ingest::begin(store).unwrap();
                    for round in 0..40u8 {
                        // Each part of a round differs from the same part of the last.
                        let mut part = parts[usize::from(round) % 8].clone();
                        part.chunks_mut(4096)
                            .for_each(|page| page[0] ^= round / 8 + 5 * which);
                        ingest.push(&part).unwrap();
                        assert!(store.memory().used() <= CEILING / 2);
                    }
                    ingest.finish(raw()).unwrap().id
                })
            })
            .collect();
        let ids: Vec<_> = ingests
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        ids[0]
    });
    std::thread::scope(|scope| {
        for start in 0..6 {
            let store = &store;
            scope.spawn(move || {
                let reader = ImageReader::open(store, id).unwrap();
                let mut at = start * 30 * MIB;
                while let Some(unit) = reader.unit(at..u64::MAX) {
                    assert!(!reader.read(&unit).unwrap().is_empty());
                    at = unit.range.end;
                }
            });
        }
    });
    assert!(verified(&store).ok());
    let plan = Collection::begin(&store).unwrap().plan([id]).unwrap();
    plan.execute(|_, _| {}).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    // The generated parts are the test's own.
    println!("\npeak {}", kib * 1024 - 40 * MIB);
}
