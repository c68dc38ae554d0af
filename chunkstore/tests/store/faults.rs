//! Does a failing disk, at whatever moment, lose anything that was acknowledged or leave anything behind?
//!
//! One scenario runs again and again, each time with another operation of the disk going wrong. What
//! follows of the scenario is still tried, as a daemon would go on. Then the store is opened on a healthy
//! disk. By default a part of the moments is tried; with `VITRAIL_FAULTS=all` each one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use tempfile::TempDir;
use vitrail_chunkstore::gc::Collection;
use vitrail_chunkstore::{Error, Ingest, Options, Result, Store};
use vitrail_proto::id::ManifestId;

use crate::support::disk::{FaultyDisk, Plan};
use crate::support::images::{KIB, Run, image, noise};
use crate::support::{
    Site, assert_intact, assert_no_orphans, collect, copy_directory, ingest, options, verified,
};

/// Moments of each kind of fault that are tried by default.
const MOMENTS: u64 = 12;

fn small() -> Options {
    Options {
        memory: 48 << 20,
        frame_len: 64 * 1024,
        pack_len: 200 * 1024,
        ..options()
    }
}

fn open(directory: &Path, disk: &FaultyDisk) -> Result<Store> {
    Store::open_with_disk(directory, small(), &[], Box::new(disk.clone()))
}

/// What a catalogue would know.
#[derive(Default)]
struct Catalogue {
    images: BTreeMap<ManifestId, Vec<u8>>,
    packs_removed: u64,
    packs_compacted: u64,
    failures: u32,
}

impl Catalogue {
    /// Notes an image if it was acknowledged while there was power.
    fn add(&mut self, store: &Store, disk: &FaultyDisk, image: &[u8]) {
        match ingest(store, image) {
            Ok(id) if !disk.is_off() => {
                self.images.insert(id, image.to_vec());
            }
            _ => self.failures += 1,
        }
    }

    fn delete(&mut self, image: &[u8]) {
        self.images.retain(|_, other| other != image);
    }

    fn collect(&mut self, store: &Store) {
        let plan = Collection::begin(store)
            .expect("no other collection")
            .plan(self.images.keys().copied());
        match plan.and_then(|plan| plan.execute(|_, _| {})) {
            Ok(summary) => {
                self.packs_removed += summary.packs_removed;
                self.packs_compacted += summary.packs_compacted;
            }
            Err(_) => self.failures += 1,
        }
    }
}

/// Everything that writes: ingests that share chunks, one that is abandoned, deletions, collections that
/// remove packs and that rewrite them.
fn scenario(store: &Store, disk: &FaultyDisk) -> Catalogue {
    let [a, b, c] = [1, 2, 3].map(|n| Run::Text(n, 150 * KIB));
    let [x, y] = [4, 5].map(|n| Run::Noise(n, 150 * KIB));
    let hole = Run::Zeros(20 * KIB);
    let first = image(&[a, hole, x]);
    let second = image(&[x, hole, b, y]);
    let third = image(&[y, hole, c]);
    let mut catalogue = Catalogue::default();
    catalogue.add(store, disk, &first);
    catalogue.add(store, disk, &second);
    catalogue.delete(&first);
    catalogue.collect(store);
    if let Ok(mut ingest) = Ingest::begin(store)
        && ingest.push(&image(&[c, x, c])).is_err()
    {
        catalogue.failures += 1;
    }
    catalogue.add(store, disk, &third);
    catalogue.delete(&second);
    catalogue.collect(store);
    catalogue.add(store, disk, &first);
    catalogue.collect(store);
    catalogue
}

/// What comes after a fault.
#[derive(Clone, Copy)]
enum Then {
    /// The process is started again.
    Restart,
    /// The machine is: what was not synced may be gone.
    PowerCycle,
}

/// Runs the scenario with `plan` at operation `at`. Returns whether it came to that.
fn run(template: &Path, at: u64, then: Then, plan: impl FnOnce(&Path, &Path) -> Plan) -> bool {
    let disk = FaultyDisk::default();
    let directory = copy_of(template);
    let after = tempfile::tempdir().unwrap();
    disk.plan(at, plan(directory.path(), after.path()));
    let mut catalogue = Catalogue::default();
    if let Ok(store) = open(directory.path(), &disk) {
        catalogue = scenario(&store, &disk);
    }
    if disk.is_planned() {
        assert_eq!(catalogue.failures, 0);
        return false;
    }
    match then {
        Then::Restart => disk.heal(),
        Then::PowerCycle => disk.power_cycle(at),
    }
    // A cut has put the index aside as it was at that moment.
    let cut = after.path().join("FORMAT").exists();
    let directory = if cut { after } else { directory };
    check(directory.path(), &disk, &catalogue.images);
    true
}

/// The store opens, has what was acknowledged, and after a collection nothing else; and it works.
fn check(directory: &Path, disk: &FaultyDisk, images: &BTreeMap<ManifestId, Vec<u8>>) {
    let store = open(directory, disk).expect("it opens");
    assert_intact(&store, images);
    let mut roots: BTreeSet<_> = images.keys().copied().collect();
    collect(&store, roots.iter().copied());
    assert_no_orphans(&store, &roots);
    assert_eq!(disk.packs().len() as u64, store.stats().unwrap().packs);
    assert_intact(&store, images);
    let more = image(&[Run::Text(1, 150 * KIB), Run::Noise(9, 300 * KIB)]);
    roots.insert(ingest(&store, &more).expect("it works"));
    collect(&store, roots.iter().copied());
    assert_no_orphans(&store, &roots);
    let report = verified(&store);
    assert!(
        report.ok(),
        "{:?}, {} missing",
        report.damaged.first(),
        report.missing.len()
    );
}

fn copy_of(template: &Path) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    copy_directory(template, directory.path());
    directory
}

/// Runs the scenario with a fault at each moment, or at some, of which `kind` tells the first.
fn at_every_moment(kind: u64, then: &[Then], plan: impl Fn(&Path, &Path) -> Plan) {
    let template = tempfile::tempdir().unwrap();
    drop(open(template.path(), &FaultyDisk::default()).unwrap());
    let disk = FaultyDisk::default();
    let directory = copy_of(template.path());
    let catalogue = scenario(&open(directory.path(), &disk).unwrap(), &disk);
    assert_eq!((catalogue.failures, catalogue.images.len()), (0, 2));
    assert!(catalogue.packs_removed > 0 && catalogue.packs_compacted > 0);
    let operations = disk.operations();

    let all = std::env::var("VITRAIL_FAULTS").is_ok_and(|value| value == "all");
    let step = if all { 1 } else { operations / MOMENTS };
    let mut moments = 0;
    for (n, at) in (kind % step..operations).step_by(step as usize).enumerate() {
        let all_of = if all {
            then
        } else {
            &then[n % then.len()..][..1]
        };
        for &then in all_of {
            moments += u64::from(run(template.path(), at, then, &plan));
        }
    }
    // Threads make the number of operations vary a little.
    assert!(
        moments >= operations / step / 2,
        "{moments} moments of {operations}"
    );
    println!("{moments} moments of {operations} operations");
}

#[test]
fn an_operation_fails() {
    at_every_moment(0, &[Then::Restart, Then::PowerCycle], |_, _| {
        Plan::Fail(io::ErrorKind::Other)
    });
}

#[test]
fn the_disk_is_full_for_a_moment() {
    at_every_moment(3, &[Then::PowerCycle, Then::Restart], |_, _| {
        Plan::Tear(io::ErrorKind::StorageFull)
    });
}

#[test]
fn a_write_is_torn() {
    at_every_moment(5, &[Then::Restart, Then::PowerCycle], |_, _| {
        Plan::Tear(io::ErrorKind::Other)
    });
}

#[test]
fn a_sync_fails_and_its_writes_are_lost() {
    at_every_moment(1, &[Then::PowerCycle], |_, _| Plan::LoseSync);
}

#[test]
fn the_power_goes() {
    at_every_moment(7, &[Then::PowerCycle], |directory, after| {
        let (from, to) = (directory.to_owned(), after.to_owned());
        Plan::PowerCut(Box::new(move || copy_directory(&from, &to)))
    });
}

#[test]
fn after_a_failed_sync_nothing_is_written_and_everything_read() {
    let disk = FaultyDisk::default();
    let mut site = Site::on(&disk, options());
    let before = site.add(noise(1, 200 * KIB));
    disk.plan(0, Plan::LoseSync);
    let lost = noise(2, 200 * KIB);
    assert!(matches!(ingest(site.store(), &lost), Err(Error::Io { .. })));
    for image in [&lost, &noise(3, 1000), &site.images[&before]] {
        assert!(matches!(ingest(site.store(), image), Err(Error::Poisoned)));
    }
    let plan = Collection::begin(site.store()).unwrap().plan(site.roots());
    assert!(matches!(plan.err(), Some(Error::Poisoned)));
    site.assert_intact();
    site.reopen_after(|_| disk.power_cycle(1));
    site.add(lost);
    site.assert_clean();
}
