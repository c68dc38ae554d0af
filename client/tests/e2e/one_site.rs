//! One site: does what goes in come out?

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::disk::{MIB, write_disk};
use crate::site::Site;

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
    assert_eq!(
        site.json(&["store", "scrub", "--rate", "1GB/s"])["ok"],
        true
    );
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
