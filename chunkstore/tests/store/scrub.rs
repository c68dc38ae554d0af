//! Does a scrub find what is wrong, keep to its rate, and stop when it is told to?

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vitrail_chunkstore::Error;
use vitrail_chunkstore::verify::Scrub;

use crate::support::disk::FaultyDisk;
use crate::support::images::noise;
use crate::support::{Site, ingest, options};

#[test]
fn a_slow_scrub_finds_what_a_fast_one_finds() {
    let disk = FaultyDisk::default();
    let site = Site::on(&disk, options());
    ingest(site.store(), &noise(1, 2_000_000)).unwrap();
    for pack in disk.packs() {
        disk.edit(pack, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        });
    }
    let slow = Scrub {
        rate: NonZeroU64::new(8_000_000),
        ..Scrub::default()
    };
    let begun = Instant::now();
    let mut done = 0;
    let report = slow.run(site.store(), |p| done = p.done_bytes).unwrap();
    // A machine may be slower, but never faster.
    assert!(begun.elapsed() >= Duration::from_secs_f64(done as f64 / 8e6));
    assert_eq!(report.damaged.len(), disk.packs().len());
    assert!(!report.missing.is_empty());
}

#[test]
fn a_scrub_stops_when_it_is_told_to() {
    let site = Site::new();
    ingest(site.store(), &noise(2, 2_000_000)).unwrap();
    let stop = AtomicBool::new(false);
    let scrub = Scrub {
        rate: NonZeroU64::new(1), // it would take three weeks
        stop: Some(&stop),
        ..Scrub::default()
    };
    let result = scrub.run(site.store(), |_| stop.store(true, Ordering::Relaxed));
    assert!(matches!(result, Err(Error::Stopped)));
}

#[test]
fn what_is_here_in_part_misses_nothing() {
    let site = Site::new();
    let (whole, partial) = (noise(3, 500_000), noise(4, 500_000));
    let whole = ingest(site.store(), &whole).unwrap();
    let other = Site::new();
    let partial = ingest(other.store(), &partial).unwrap();
    let manifest = other.store().manifest(partial).unwrap();
    let lease = site.store().lease();
    site.store().put_manifest(&manifest, &lease).unwrap();

    let known = HashSet::from([whole]);
    let scrub = Scrub {
        whole: Some(&known),
        ..Scrub::default()
    };
    let report = scrub.run(site.store(), |_| {}).unwrap();
    assert_eq!((report.manifests, report.partial_manifests), (2, 1));
    assert!(report.ok(), "{report:?}");
    let strict = Scrub::default().run(site.store(), |_| {}).unwrap();
    assert_eq!(strict.missing.len(), manifest.chunks().count());
}
