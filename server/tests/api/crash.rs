//! Does a daemon that is killed at any moment keep what it acknowledged, and nothing else?
//!
//! `VITRAIL_CRASH_ROUNDS` sets how often it is killed (default 4), `VITRAIL_CRASH_SEED` where the
//! randomness starts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tempfile::TempDir;

use crate::site::{Client, Process, noise};

/// What clients know of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Known {
    /// Its upload has begun and has no answer yet.
    Uploading,
    /// Its upload was acknowledged.
    Active,
    /// Its deletion has begun and has no answer yet.
    Deleting,
    /// Its deletion was acknowledged.
    Deleted,
}

/// All images: what is known of each, and the seed of its content.
type Ledger = Arc<Mutex<BTreeMap<String, (Known, u64)>>>;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Some images have a part in common, and holes.
fn content(seed: u64) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut bytes = noise(seed % 3, random.random_range(0..3 << 20));
    bytes.extend(vec![0; random.random_range(0..300_000)]);
    bytes.extend(noise(seed, random.random_range(1..3 << 20)));
    bytes
}

/// Makes images until the daemon is gone.
fn upload(site: Client, ledger: Ledger, seeds: Arc<AtomicU64>) {
    loop {
        let seed = seeds.fetch_add(1, Ordering::Relaxed);
        let document = json!({"disk_format": "raw", "container_format": "bare"});
        let created = site
            .request("POST", "/v2/images")
            .json(&document)
            .try_send();
        let Ok(created) = created else {
            return;
        };
        let image = created.expect(201).json();
        let id = image["id"].as_str().unwrap().to_owned();
        let know = |known| ledger.lock().unwrap().insert(id.clone(), (known, seed));
        know(Known::Uploading);
        match site.upload(&id, content(seed)).try_send() {
            Ok(answer) => answer.expect(204),
            Err(_) => return,
        };
        know(Known::Active);
    }
}

/// Deletes some of them until the daemon is gone.
fn delete(site: Client, ledger: Ledger) {
    loop {
        let victim = {
            let mut ledger = ledger.lock().unwrap();
            let active = ledger
                .iter_mut()
                .filter(|(_, (known, _))| *known == Known::Active);
            // Those with an odd seed stay.
            let mut victims = active.filter(|(_, (_, seed))| seed % 2 == 0);
            victims.next().map(|(id, (known, _))| {
                *known = Known::Deleting;
                id.clone()
            })
        };
        let Some(id) = victim else {
            if site.operator("GET", "/healthz").try_send().is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let answer = site
            .request("DELETE", &format!("/v2/images/{id}"))
            .try_send();
        match answer {
            Ok(answer) => answer.expect(204),
            Err(_) => return,
        };
        ledger.lock().unwrap().get_mut(&id).unwrap().0 = Known::Deleted;
    }
}

/// Collects garbage over and over until the daemon is gone.
fn collect(site: Client) {
    while site
        .operator("POST", "/v1/store/gc")
        .bytes("")
        .try_send()
        .is_ok()
    {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything that was acknowledged is there, and everything else is as it may be.
fn check(site: &Process, ledger: &Ledger) {
    for (id, (known, seed)) in ledger.lock().unwrap().iter_mut() {
        let answer = site.get(&format!("/v2/images/{id}"));
        let status = match answer.status {
            200 => answer.json()["status"].as_str().unwrap().to_owned(),
            404 => "deleted".into(),
            other => panic!("{id}: {other}"),
        };
        match (*known, status.as_str()) {
            (Known::Active | Known::Uploading | Known::Deleting, "active") => {
                assert!(site.download(id) == content(*seed), "{id} has other bytes");
                *known = Known::Active;
            }
            (Known::Deleting | Known::Deleted, "deleted") => *known = Known::Deleted,
            (Known::Uploading, "queued") => {
                site.delete(id).expect(204);
                *known = Known::Deleted;
            }
            (known, status) => panic!("{id} was {known:?} and is {status}"),
        }
    }
}

/// After a collection only what images name is left, in the index and on disk.
fn no_orphan(site: &Process, data_dir: &Path, ledger: &Ledger) {
    site.collect();
    let verified = site.verify();
    assert_eq!(verified["ok"], true, "{verified}");
    let ledger = ledger.lock().unwrap();
    let active = ledger.values().filter(|(known, _)| *known == Known::Active);
    assert_eq!(verified["manifests"], active.count());
    let files = std::fs::read_dir(data_dir.join("packs")).unwrap().count();
    assert_eq!(site.store()["packs"], files);
}

#[test]
fn killed_again_and_again() {
    let rounds = variable("VITRAIL_CRASH_ROUNDS", 4);
    let seed = variable("VITRAIL_CRASH_SEED", 1);
    let directory = TempDir::new().unwrap();
    let data_dir = directory.path().join("site");
    let ledger = Ledger::default();
    let seeds = Arc::new(AtomicU64::new(seed << 32));
    let mut random = SmallRng::seed_from_u64(seed);
    let mut opening_max = Duration::ZERO;
    for round in 0..rounds {
        let begun = Instant::now();
        let mut site = Process::start(&data_dir);
        opening_max = opening_max.max(begun.elapsed());
        check(&site, &ledger);
        no_orphan(&site, &data_dir, &ledger);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (ledger, seeds) = (ledger.clone(), seeds.clone());
                let client = site.client;
                scope.spawn(move || upload(client, ledger, seeds));
            }
            let client = site.client;
            let deletions = ledger.clone();
            scope.spawn(move || delete(client, deletions));
            if round % 2 == 1 {
                scope.spawn(move || collect(client));
            }
            std::thread::sleep(Duration::from_millis(random.random_range(50..1500)));
            site.kill();
        });
    }
    let site = Process::start(&data_dir);
    check(&site, &ledger);
    no_orphan(&site, &data_dir, &ledger);
    let ledger = ledger.lock().unwrap();
    let count = |wanted| {
        ledger
            .values()
            .filter(|(known, _)| *known == wanted)
            .count()
    };
    println!(
        "{rounds} kills; {} images intact, {} deleted; the slowest reopening took {opening_max:?}",
        count(Known::Active),
        count(Known::Deleted),
    );
    assert!(count(Known::Active) > 0, "nothing was ever acknowledged");
}
