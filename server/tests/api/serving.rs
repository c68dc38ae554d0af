//! Are many clients, and slow ones, served at a bounded cost?

use std::sync::Barrier;

use crate::http::Connection;
use crate::site::{Process, Site, noise};

use tempfile::TempDir;

/// Peak resident memory of a process in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[test]
fn a_hundred_downloads_at_once() {
    const CLIENTS: usize = 100;
    let directory = TempDir::new().unwrap();
    let site = Process::start(&directory.path().join("site"));
    let mut bytes = noise(1, 12 << 20);
    bytes.extend(vec![0; 20 << 20]);
    let id = site.image(&bytes);
    let all_begun = Barrier::new(CLIENTS);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut connection = Connection::open(site.api);
                let path = format!("/v2/images/{id}/file");
                connection
                    .send(format!("GET {path} HTTP/1.1\r\nHost: site\r\n\r\n"))
                    .unwrap();
                let head = connection.head().unwrap().expect(200);
                assert_eq!(
                    head.header("content-length"),
                    Some(&*bytes.len().to_string())
                );
                all_begun.wait();
                let mut at = 0;
                let mut buffer = vec![0; 1 << 16];
                while at < bytes.len() {
                    let n = connection.read(&mut buffer).unwrap();
                    assert!(n > 0, "cut off at {at}");
                    assert!(buffer[..n] == bytes[at..at + n], "a wrong byte after {at}");
                    at += n;
                }
            });
        }
    });
    let peak = peak_memory(site.child.id());
    println!("peak memory {} MB", peak / 1_000_000);
    // [store] memory is 256 MiB; 200 MB for everything else.
    assert!(peak < (256 << 20) + 200_000_000, "{peak} bytes");
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let site = Site::with(|config| {
        config.api.idle_timeout_s = 1;
        config.api.connections_max = 1;
    });
    let id = site.image(&noise(1, 32 << 20));
    let mut stalled = Connection::open(site.api);
    stalled
        .send(format!(
            "GET /v2/images/{id}/file HTTP/1.1\r\nHost: site\r\n\r\n"
        ))
        .unwrap();
    stalled.head().unwrap().expect(200);
    // The only place is free again, or this would wait in vain.
    site.get("/v2/images").expect(200);
}

#[test]
fn an_image_deleted_during_its_download() {
    let site = Site::start();
    let bytes = noise(1, 32 << 20);
    let id = site.image(&bytes);
    let mut connection = Connection::open(site.api);
    connection
        .send(format!(
            "GET /v2/images/{id}/file HTTP/1.1\r\nHost: site\r\n\r\n"
        ))
        .unwrap();
    let mut received = connection.head().unwrap().expect(200).body;
    site.delete(&id).expect(204);
    site.operator("POST", "/v1/store/gc")
        .bytes("")
        .send()
        .expect(200);
    let mut buffer = vec![0; 1 << 16];
    while received.len() < bytes.len() {
        let n = connection.read(&mut buffer).unwrap();
        assert!(n > 0, "cut off after {} bytes", received.len());
        received.extend(&buffer[..n]);
    }
    assert!(received == bytes);
    drop(connection);
    site.get(&format!("/v2/images/{id}/file")).expect(404);
}
