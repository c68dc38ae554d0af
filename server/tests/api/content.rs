//! Is content that is not what it claims, or that reaches beyond itself, kept out?

use serde_json::{Value, json};

use crate::site::{Site, noise};

/// A qcow2 header of version 3 for an empty disk of 1 GiB, followed by clusters of zeros.
fn qcow2(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut image = vec![0; 4 * 65_536];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &16u32.to_be_bytes()); // cluster bits
    put(24, &(1u64 << 30).to_be_bytes());
    put(36, &2u32.to_be_bytes()); // entries of the L1 table
    put(40, &(3u64 * 65_536).to_be_bytes());
    put(48, &65_536u64.to_be_bytes()); // refcount table
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes()); // refcount order
    put(100, &104u32.to_be_bytes()); // header length
    change(&mut image);
    image
}

fn vmdk(descriptor: &str) -> Vec<u8> {
    let mut image = vec![0; 1 << 20];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"KDMV");
    put(4, &1u32.to_le_bytes());
    put(12, &2048u64.to_le_bytes()); // capacity in sectors
    put(20, &128u64.to_le_bytes()); // grain
    put(28, &1u64.to_le_bytes()); // descriptor's sector
    put(36, &20u64.to_le_bytes()); // descriptor's length in sectors
    put(512, descriptor.as_bytes());
    image
}

#[test]
fn refused_content() {
    let site = Site::start();
    let path = b"/etc/passwd";
    let backing = qcow2(|image| {
        image[8..16].copy_from_slice(&200u64.to_be_bytes());
        image[16..20].copy_from_slice(&(path.len() as u32).to_be_bytes());
        image[200..200 + path.len()].copy_from_slice(path);
    });
    let data_file = qcow2(|image| image[79] |= 1 << 2);
    let unknown_feature = qcow2(|image| image[72] = 0x80);
    let outside = vmdk(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         RW 2048 FLAT \"/etc/passwd\" 0\n",
    );
    let cases = [
        ("a backing file", "qcow2", backing.clone()),
        ("a backing file said to be raw", "raw", backing),
        ("a data file", "qcow2", data_file.clone()),
        ("a data file said to be raw", "raw", data_file),
        ("an unknown feature", "qcow2", unknown_feature),
        ("a file outside", "vmdk", outside),
        ("noise", "qcow2", noise(1, 200_000)),
        ("noise", "vmdk", noise(2, 200_000)),
        ("noise", "vhdx", noise(3, 200_000)),
        ("another format", "vdi", qcow2(|_| {})),
    ];
    for (what, format, bytes) in cases {
        let id = site.create(json!({"disk_format": format}));
        let answer = site.upload(&id, bytes).send();
        assert_eq!(answer.status, 415, "{what} as {format}: {}", answer.text());
        let image = site.show(&id);
        assert_eq!(image["status"], "queued", "{what} as {format}");
        assert_eq!(image["checksum"], Value::Null);
        // The same image can be tried again, with what it should have been.
        let retry = json!([{"op": "replace", "path": "/disk_format", "value": "qcow2"}]);
        site.patch(&id, &retry).expect(200);
        site.upload(&id, qcow2(|_| {})).send().expect(204);
        assert_eq!(site.show(&id)["virtual_size"], 1 << 30);
        site.delete(&id).expect(204);
    }
    site.collect();
    assert_eq!(site.store()["chunks"], 0);
}

#[test]
fn a_refusal_does_not_wait_for_the_end() {
    let site = Site::start();
    let id = site.create(json!({"disk_format": "qcow2"}));
    let mut bytes = noise(1, 64 << 20);
    bytes[..4].copy_from_slice(b"QFI\xfb");
    site.upload(&id, bytes).send().expect(415);
    assert_eq!(site.status(&id), "queued");
    let stored = site.store()["pack_bytes"].as_u64().unwrap();
    assert!(stored < 32 << 20, "{stored} bytes were stored of 64 MiB");
}

#[test]
fn a_site_may_not_care() {
    let site = Site::with(|config| config.images.require_format_match = false);
    let id = site.create(json!({"disk_format": "qcow2"}));
    site.upload(&id, noise(1, 200_000)).send().expect(204);
    assert_eq!(site.show(&id)["virtual_size"], Value::Null);
    // A backing file stays out.
    let id = site.create(json!({"disk_format": "qcow2"}));
    let backing = qcow2(|image| {
        image[15] = 200;
        image[19] = 1;
        image[200] = b'x';
    });
    site.upload(&id, backing).send().expect(415);
}

#[test]
fn containers_are_not_looked_into() {
    let site = Site::start();
    let id = site.create(json!({"disk_format": "vmdk", "container_format": "ova"}));
    site.upload(&id, noise(1, 200_000)).send().expect(204);
}
