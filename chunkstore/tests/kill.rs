//! Does a store survive the death of its process at any moment?
//!
//! A child, this program again, stores, deletes and collects until it is killed. It tells what it was
//! answered over a pipe. `VITRAIL_KILLS` sets the number of rounds.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[allow(dead_code)] // each test program uses a part of it
#[path = "store/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use vitrail_chunkstore::db::{Batch, Durability};
use vitrail_chunkstore::gc::Collection;
use vitrail_chunkstore::{Ingest, Options, Store};
use vitrail_proto::id::ManifestId;

use support::images::{KIB, Run, image};
use support::{assert_no_orphans, collect, options, pack_files, raw, read_all, verified};

const ROUNDS: u64 = 8;
/// The catalogue: image number to manifest id.
const IMAGES: &str = "images";
const DIRECTORY: &str = "VITRAIL_KILL_DIRECTORY";

fn open(directory: &Path) -> Store {
    let options = Options {
        pack_len: 2 << 20,
        ..options()
    };
    Store::open(directory, options, &[IMAGES]).unwrap()
}

/// Image number `n`; neighbours share runs.
fn content(n: u64) -> Vec<u8> {
    image(&[
        Run::Text(n / 2, 400 * KIB),
        Run::Zeros(30 * KIB),
        Run::Noise(n, 300 * KIB + n as usize),
        Run::Text(n / 3, 200 * KIB),
    ])
}

fn catalogue(store: &Store) -> Vec<(u64, ManifestId)> {
    let rows = store.db().rows(IMAGES, &[]).unwrap();
    rows.map(|row| {
        let (key, value) = row.unwrap();
        let number = u64::from_be_bytes(key[..].try_into().unwrap());
        (
            number,
            ManifestId::from_bytes(value[..].try_into().unwrap()),
        )
    })
    .collect()
}

/// Works until it is killed; without a parent, for a while.
#[test]
#[ignore = "run in a process of its own by the other test"]
fn work() {
    let given = std::env::var_os(DIRECTORY);
    let own = tempfile::tempdir().unwrap();
    let directory = given.as_ref().map_or(own.path(), Path::new);
    let store = open(directory);
    let seed = catalogue(&store).len() as u64 + u64::from(std::process::id());
    let mut rng = SmallRng::seed_from_u64(seed);
    println!("\nopen");
    let rounds = if given.is_some() { 1_000_000 } else { 50 };
    for _ in 0..rounds {
        let n = rng.random_range(0..40u64);
        match rng.random_range(0..10) {
            0 => {
                let mut ingest = Ingest::begin(&store).unwrap();
                ingest.push(&content(n)[..500 * KIB]).unwrap();
            }
            1..=5 => {
                let mut ingest = Ingest::begin(&store).unwrap();
                ingest.push(&content(n)).unwrap();
                let ingested = ingest.finish(raw()).unwrap();
                let mut batch = Batch::new();
                let id = ingested.id.as_bytes().to_vec();
                batch.put(IMAGES, &n.to_be_bytes(), id);
                store.db().write(batch, Durability::Synced).unwrap();
                println!("stored {n}");
            }
            6 | 7 => {
                println!("deleting {n}");
                let mut batch = Batch::new();
                batch.delete(IMAGES, &n.to_be_bytes());
                store.db().write(batch, Durability::Synced).unwrap();
            }
            _ => {
                let collection = Collection::begin(&store).unwrap();
                let roots = catalogue(&store).into_iter().map(|(_, id)| id);
                collection.plan(roots).unwrap().execute(|_, _| {}).unwrap();
                println!("collected");
            }
        }
    }
}

fn start(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "work", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_any_moment() {
    let rounds = std::env::var("VITRAIL_KILLS").map_or(ROUNDS, |n| n.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let mut rng = SmallRng::seed_from_u64(rounds);
    let mut expected = BTreeSet::new();
    let (mut slowest, mut collections, mut stored) = (Duration::ZERO, 0, 0);
    for _ in 0..rounds {
        let mut child = start(directory.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let opened = lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line == "open");
        assert!(opened.is_some(), "the child opens the store");
        std::thread::sleep(Duration::from_millis(rng.random_range(20..700)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map(Result::unwrap) {
            match line.split_once(' ') {
                Some(("stored", n)) => {
                    stored += 1;
                    expected.insert(n.parse().unwrap());
                }
                Some(("deleting", n)) => {
                    expected.remove(&n.parse().unwrap());
                }
                _ => collections += u64::from(line == "collected"),
            }
        }

        let before = Instant::now();
        let store = open(directory.path());
        slowest = slowest.max(before.elapsed());
        let found = catalogue(&store);
        for (n, id) in &found {
            assert!(read_all(&store, *id).unwrap() == content(*n), "image {n}");
        }
        let numbers: BTreeSet<u64> = found.iter().map(|(n, _)| *n).collect();
        let lost: Vec<_> = expected.difference(&numbers).collect();
        assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
        // What was stored but not answered, or deleted but not so far, counts from here on.
        expected = numbers;
        assert!(verified(&store).ok());
        let roots: BTreeSet<_> = found.iter().map(|(_, id)| *id).collect();
        collect(&store, roots.iter().copied());
        assert_no_orphans(&store, &roots);
        let files = pack_files(directory.path()).len();
        assert_eq!(files as u64, store.stats().unwrap().packs);
    }
    println!(
        "{rounds} kills, {stored} images stored, {collections} collections; slowest open {slowest:?}"
    );
    assert!(stored > 0);
}
