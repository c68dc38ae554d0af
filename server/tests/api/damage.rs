//! Does damage on disk ever reach a client as bytes?

use std::io;
use std::path::Path;

use serde_json::json;

use crate::site::{Site, noise};

/// Flips bits of the packs at these shares of their length.
fn flip(data_dir: &Path, shares: &[f64]) {
    for entry in std::fs::read_dir(data_dir.join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        for share in shares {
            let at = (bytes.len() as f64 * share) as usize;
            bytes[at] ^= 0x10;
        }
        std::fs::write(&path, bytes).unwrap();
    }
}

/// Uploads the same bytes as other images until `id` is whole again. Each upload brings back what a
/// reader has found missing.
#[track_caller]
fn heal(site: &Site, id: &str, bytes: &[u8]) {
    for _ in 0..10 {
        site.image(bytes);
        let request = site.request("GET", &format!("/v2/images/{id}/file"));
        if let Ok(answer) = request.try_send()
            && answer.status == 200
        {
            assert!(answer.body == bytes, "wrong bytes were sent");
            return;
        }
    }
    panic!("uploads do not bring it back");
}

#[test]
fn a_flipped_bit_before_the_first_byte_is_an_error() {
    let mut site = Site::start();
    let bytes = noise(1, 100_000);
    let id = site.image(&bytes);
    site.restart(|directory| flip(directory, &[0.5]));
    let answer = site.get(&format!("/v2/images/{id}/file")).expect(503);
    assert!(answer.text().contains("again"), "{}", answer.text());
    heal(&site, &id, &bytes);
    site.collect();
    assert_eq!(site.verify()["ok"], true);
}

#[test]
fn a_flipped_bit_later_cuts_the_download() {
    let mut site = Site::start();
    let bytes = noise(2, 16 << 20);
    let id = site.image(&bytes);
    site.restart(|directory| flip(directory, &[0.9]));
    let path = format!("/v2/images/{id}/file");
    let mut connection = crate::http::Connection::open(site.api);
    connection
        .send(format!("GET {path} HTTP/1.1\r\nHost: site\r\n\r\n"))
        .unwrap();
    connection.head().unwrap().expect(200);
    let mut received: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => received.extend(&buffer[..n]),
            Err(error) => {
                assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "it hangs");
                break;
            }
        }
    }
    assert!(received.len() < bytes.len(), "all was sent");
    assert!(received == bytes[..received.len()], "a wrong byte was sent");
    let part = |range| site.request("GET", &path).header("Range", range).send();
    assert!(part("bytes=0-99999").expect(206).body == bytes[..100_000]);
    heal(&site, &id, &bytes);
}

#[test]
fn damage_all_over() {
    let mut site = Site::start();
    let bytes = noise(3, 8 << 20);
    let id = site.image(&bytes);
    let shares: Vec<f64> = (1..100).map(|n| f64::from(n) / 100.0).collect();
    site.restart(|directory| flip(directory, &shares));
    let found = site.verify();
    assert_eq!(found["ok"], false);
    assert!(!found["damaged"].as_array().unwrap().is_empty());
    site.get("/v2/images").expect(200);
    site.get(&format!("/v2/images/{id}/file")).expect(503);
    // What verification found is known to be missing, so one upload brings all of it back.
    site.image(&bytes);
    assert!(site.download(&id) == bytes);
    let again = site.verify();
    assert_eq!(again["missing"], json!([]), "{again}");
}

#[test]
fn packs_that_are_gone() {
    let mut site = Site::start();
    let bytes = noise(4, 1 << 20);
    let id = site.image(&bytes);
    site.restart(|directory| std::fs::remove_dir_all(directory.join("packs")).unwrap());
    assert_eq!(site.status(&id), "active");
    site.get(&format!("/v2/images/{id}/file")).expect(503);
    site.verify();
    site.image(&bytes);
    assert!(site.download(&id) == bytes);
}
