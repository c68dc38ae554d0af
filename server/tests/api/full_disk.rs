//! Does a site whose disk is full lose nothing, say so, and go on once there is room?

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::site::{Site, noise};

/// A file system of its own, in memory.
struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// None where mounting is not allowed.
    fn mount(size: &str) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "tmpfs"])
            .arg(directory.path())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: mounting a tmpfs needs root");
        }
        mounted.then_some(Self { directory })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        assert!(unmounted.unwrap().success());
    }
}

#[test]
fn an_image_that_does_not_fit() {
    let Some(disk) = SmallDisk::mount("size=96m") else {
        return;
    };
    let data_dir = disk.path().join("site");
    let mut site = Site::with(|config| {
        config.site.data_dir = Some(data_dir);
        config.store.reserve.0 = 16 << 20;
    });
    let small = noise(1, 5 << 20);
    let kept = site.image(&small);

    let id = site.create(json!({}));
    let answer = site.upload(&id, noise(2, 150 << 20)).send().expect(413);
    assert!(answer.text().contains("space"), "{}", answer.text());
    let image = site.show(&id);
    assert_eq!(image["status"], "queued");
    assert_eq!(image["checksum"], Value::Null);
    assert!(site.download(&kept) == small);

    // What was stored of it goes, and then there is room for another.
    site.collect();
    let fits = noise(3, 30 << 20);
    site.upload(&id, fits.clone()).send().expect(204);
    site.restart(|_| {});
    assert!(site.download(&id) == fits);
    assert!(site.download(&kept) == small);
    assert_eq!(site.verify()["ok"], true);
    // The disk goes after the site.
    site.stop();
}

#[test]
fn a_disk_that_others_fill() {
    let Some(disk) = SmallDisk::mount("size=96m") else {
        return;
    };
    let data_dir = disk.path().join("site");
    let mut site = Site::with(|config| config.site.data_dir = Some(data_dir));
    let small = noise(1, 2 << 20);
    let kept = site.image(&small);
    let queued = site.create(json!({}));
    let before = site.show(&queued);

    let filler = disk.path().join("filler");
    let filled = std::fs::write(&filler, vec![0; 200 << 20]);
    assert!(filled.is_err(), "the disk is full to the last byte");
    site.upload(&queued, noise(2, 4 << 20)).send().expect(413);
    // Small records may still fit into what the database has allocated, but not for ever.
    let refused = (0..2000).find_map(|n| {
        let document = json!({"name": format!("image {n}"), "k": "v".repeat(10_000)});
        let answer = site.request("POST", "/v2/images").json(&document).send();
        (answer.status != 201).then_some(answer.status)
    });
    assert_eq!(refused, Some(413));
    assert_eq!(site.show(&queued)["status"], before["status"]);
    assert!(site.download(&kept) == small, "reading goes on");

    std::fs::remove_file(&filler).unwrap();
    let name = json!([{"op": "replace", "path": "/name", "value": "again"}]);
    // The database looks every few seconds whether there is room again.
    let deadline = Instant::now() + Duration::from_secs(60);
    while site.patch(&queued, &name).status != 200 {
        assert!(Instant::now() < deadline, "still refused");
        std::thread::sleep(Duration::from_millis(100));
    }
    site.upload(&queued, "bytes").send().expect(204);
    site.restart(|_| {});
    assert!(site.download(&kept) == small);
    assert_eq!(site.download(&queued), b"bytes");
    site.stop();
}

#[test]
fn a_capacity_that_is_used_up() {
    let site = Site::with(|config| {
        config.store.capacity = Some(vitraild::config::ByteSize(20 << 20));
    });
    let kept = site.image(&noise(1, 5 << 20));
    let id = site.create(json!({}));
    site.upload(&id, noise(2, 60 << 20)).send().expect(413);
    assert_eq!(site.status(&id), "queued");
    site.delete(&kept).expect(204);
    site.collect();
    let fits = noise(3, 8 << 20);
    site.upload(&id, fits.clone()).send().expect(204);
    assert!(site.download(&id) == fits);
}
