//! The command against a real `vitraild`: does what goes in come out?

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Longest wait for the daemon to answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon with an empty store on free ports of loopback; ends with the test.
struct Site {
    daemon: Child,
    directory: TempDir,
    api: String,
    admin: String,
}

impl Site {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let daemon = Command::new(daemon_path())
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args([
                "--api-listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut site = Self {
            daemon,
            directory,
            api: String::new(),
            admin: String::new(),
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while !site.is_ready() {
            assert!(
                Instant::now() < deadline,
                "the daemon does not become ready"
            );
            let ended = site.daemon.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}");
            sleep(Duration::from_millis(20));
        }
        site
    }

    /// Reads where the daemon listens, and asks it.
    fn is_ready(&mut self) -> bool {
        let endpoints = fs::read(self.path("data/endpoints.json")).unwrap_or_default();
        let Ok(endpoints) = serde_json::from_slice::<Value>(&endpoints) else {
            return false;
        };
        self.api = endpoints["api"].as_str().unwrap().to_owned();
        self.admin = endpoints["admin"].as_str().unwrap().to_owned();
        self.run(&["status"]).status.success()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `vitrail` in the test's directory.
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vitrail"))
            .env_clear()
            .env("VITRAIL_ENDPOINT", &self.api)
            .env("VITRAIL_ADMIN_ENDPOINT", &self.admin)
            .current_dir(self.directory.path())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs `vitrail --json`, which must succeed, and answers its document.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--json"], arguments].concat());
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {messages}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn code(&self, arguments: &[&str]) -> i32 {
        self.run(arguments).status.code().unwrap()
    }

    fn push(&self, file: &str, name: &str) -> Value {
        self.json(&[
            "image",
            "push",
            file,
            "--name",
            name,
            "--disk-format",
            "raw",
        ])
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}

/// The daemon that `VITRAILD_BIN` names, or the one built beside this test's `vitrail`.
fn daemon_path() -> PathBuf {
    let beside = || Path::new(env!("CARGO_BIN_EXE_vitrail")).with_file_name("vitraild");
    let path = std::env::var_os("VITRAILD_BIN").map_or_else(beside, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: cargo build -p vitraild",
        path.display()
    );
    path
}

/// A sparse disk of 24 MiB: random data with a long hole in the middle, a short one, and one at
/// its end. Answers the bytes that are not holes.
fn write_disk(path: &Path, seed: u64) -> u64 {
    let disk = File::create(path).unwrap();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut written = 0;
    for (start, len) in [
        (0, 3 * MIB),
        (12 * MIB, 4 * MIB),
        (16 * MIB + 8192, MIB + 1),
    ] {
        let mut data = vec![0; len as usize];
        random.fill_bytes(&mut data);
        disk.write_all_at(&data, start).unwrap();
        written += len;
    }
    disk.set_len(24 * MIB).unwrap();
    written
}

#[test]
fn an_image_goes_in_and_comes_out() {
    let site = Site::start();
    let written = write_disk(&site.path("disk.raw"), 1);
    let id = "5ff4a1b8-8c1f-4cbb-8bd9-4ec2a4d1c7b4";
    let pushed = site.json(&[
        "image",
        "push",
        "disk.raw",
        "--name",
        "debian:12",
        "--disk-format",
        "raw",
        "--id",
        id,
        "--property",
        "os_distro=debian",
        "--property",
        "hw:mem/x=1",
        "--tag",
        "a",
        "--tag",
        "b",
    ]);
    assert_eq!(pushed["id"], id);
    assert_eq!(pushed["status"], "active");
    assert_eq!(pushed["size"], 24 * MIB);
    assert_eq!(pushed["container_format"], "bare");
    assert_eq!(pushed["hw:mem/x"], "1");

    assert_eq!(site.json(&["image", "show", "debian:12"]), pushed);
    assert_eq!(site.json(&["image", "show", id]), pushed);
    assert_eq!(
        site.json(&["image", "list", "--tag", "a", "--tag", "b"])[0],
        pushed
    );
    assert_eq!(
        site.json(&["image", "list", "--tag", "c"]),
        Value::Array(vec![])
    );

    let pulled = site.json(&["image", "pull", "debian:12", "--output", "out.raw"]);
    assert_eq!(pulled["verified"], serde_json::json!(["md5", "sha512"]));
    assert_eq!(pulled["received"], 24 * MIB);
    let out = site.path("out.raw");
    assert!(fs::read(&out).unwrap() == fs::read(site.path("disk.raw")).unwrap());
    // Each of the three pieces may touch one block more than it fills.
    assert!(fs::metadata(&out).unwrap().blocks() * 512 <= written + 3 * 4096);
    assert!(!site.path("out.raw.part").exists());
}

#[test]
fn a_broken_pull_goes_on() {
    let site = Site::start();
    write_disk(&site.path("disk.raw"), 2);
    site.push("disk.raw", "disk");
    let disk = fs::read(site.path("disk.raw")).unwrap();
    for (name, part) in [
        ("resumed", &disk[..5_000_001]),
        ("foreign", &[1; 5_000_001]),
    ] {
        fs::write(site.path(&format!("{name}.part")), part).unwrap();
        let pulled = site.json(&["image", "pull", "disk", "-o", name]);
        assert!(fs::read(site.path(name)).unwrap() == disk, "{name}");
        let rest = 24 * MIB - 5_000_001;
        let received = if name == "resumed" {
            rest
        } else {
            rest + 24 * MIB
        };
        assert_eq!(pulled["received"], received, "{name}");
    }
    assert_eq!(site.code(&["image", "pull", "disk", "-o", "resumed"]), 1);
    assert_eq!(
        site.code(&["image", "pull", "disk", "-o", "resumed", "--force"]),
        0
    );
}

#[test]
fn names_may_be_shared_but_then_do_not_identify() {
    let site = Site::start();
    write_disk(&site.path("disk.raw"), 3);
    let first = site.push("disk.raw", "twin");
    let second = site.push("disk.raw", "twin");
    let output = site.run(&["image", "show", "twin"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    for image in [&first, &second] {
        assert!(message.contains(image["id"].as_str().unwrap()), "{message}");
    }
    // Nothing is deleted if one of the arguments is no image.
    assert_eq!(
        site.code(&["image", "rm", first["id"].as_str().unwrap(), "other"]),
        3
    );
    assert_eq!(site.json(&["image", "list"]).as_array().unwrap().len(), 2);
}

#[test]
fn refused_data_leave_no_record() {
    let site = Site::start();
    write_disk(&site.path("disk.raw"), 4);
    let arguments = [
        "image",
        "push",
        "disk.raw",
        "--name",
        "n",
        "--disk-format",
        "qcow2",
    ];
    assert_eq!(site.code(&arguments), 4);
    assert_eq!(site.json(&["image", "list"]), Value::Array(vec![]));
}

#[test]
fn the_store_counts_frees_and_checks() {
    let site = Site::start();
    let written = write_disk(&site.path("disk.raw"), 5);
    let image = site.push("disk.raw", "one");
    site.push("disk.raw", "two");
    let stats = site.json(&["store", "stats"]);
    assert_eq!(stats["images"], 2);
    assert_eq!(
        stats["logical_bytes"],
        24 * MIB,
        "equal images share a manifest"
    );
    let unique = stats["unique_bytes"].as_u64().unwrap();
    assert!(
        unique >= written - MIB && unique <= written + MIB,
        "{stats}"
    );
    assert_eq!(site.json(&["store", "verify"])["ok"], true);
    assert_eq!(site.json(&["status"])["images"], 2);

    site.json(&["image", "rm", image["id"].as_str().unwrap()]);
    assert_eq!(
        site.json(&["store", "gc"])["dead_chunks"],
        0,
        "the other image needs them all"
    );
    site.json(&["image", "rm", "two"]);
    let plan = site.json(&["store", "gc", "--dry-run"]);
    let done = site.json(&["store", "gc"]);
    assert!(done["dead_chunks"].as_u64().unwrap() > 0, "{done}");
    assert_eq!(plan["dead_chunks"], done["dead_chunks"]);
    let after = site.json(&["store", "stats"]);
    assert_eq!(
        (&after["images"], &after["chunks"]),
        (&0.into(), &0.into()),
        "{after}"
    );
    assert!(
        after["pack_bytes"].as_u64() < stats["pack_bytes"].as_u64(),
        "{after}"
    );
    assert_eq!(site.json(&["store", "verify"])["ok"], true);
    assert_eq!(site.code(&["image", "show", "two"]), 3);
}
