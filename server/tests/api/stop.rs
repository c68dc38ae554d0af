//! Does a daemon that is asked to stop finish what it has begun?

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::http::Connection;
use crate::site::{Process, Site, noise};

fn terminate(site: &Process) {
    let pid = site.child.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn uploads_and_downloads_in_flight_end_well() {
    let directory = TempDir::new().unwrap();
    let data_dir = directory.path().join("site");
    let mut site = Process::start(&data_dir);
    let bytes = noise(1, 16 << 20);
    let served = site.image(&bytes);
    let id = site.create(json!({}));

    let mut download = Connection::open(site.api);
    download
        .send(format!(
            "GET /v2/images/{served}/file HTTP/1.1\r\nHost: site\r\n\r\n"
        ))
        .unwrap();
    let mut received = download.head().unwrap().expect(200).body;
    let mut upload = Connection::open(site.api);
    upload
        .send(format!(
            "PUT /v2/images/{id}/file HTTP/1.1\r\nHost: site\r\nContent-Length: 10\r\n\
             Content-Type: application/octet-stream\r\n\r\nhello"
        ))
        .unwrap();
    site.wait_for_status(&id, "saving", Duration::from_secs(10));
    let idle = Connection::open(site.api);

    terminate(&site);
    // It takes nobody new.
    while std::net::TcpStream::connect(site.api).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    upload.send("world").unwrap();
    upload.answer().unwrap().expect(204);
    let mut buffer = vec![0; 1 << 16];
    while received.len() < bytes.len() {
        let n = download.read(&mut buffer).unwrap();
        assert!(n > 0, "cut off after {} bytes", received.len());
        received.extend(&buffer[..n]);
    }
    assert!(received == bytes);
    drop((upload, download, idle));
    assert!(site.child.wait().unwrap().success());

    let site = Process::start(&data_dir);
    assert_eq!(site.download(&id), b"helloworld");
}

#[test]
fn a_stop_while_all_connections_are_in_use() {
    let mut site = Site::with(|config| config.api.connections_max = 2);
    let held: Vec<_> = (0..4).map(|_| Connection::open(site.api)).collect();
    site.stop();
    drop(held);
    site.restart(|_| {});
    site.get("/v2/images").expect(200);
}

#[test]
fn readiness_and_health() {
    let site = Site::start();
    site.operator("GET", "/healthz").send().expect(200);
    site.operator("GET", "/readyz").send().expect(200);
    let id = site.image(b"bytes");
    site.download(&id);
    let metrics = site.operator("GET", "/metrics").send().expect(200).text();
    for line in [
        r#"vitrail_http_requests_total{code="204",route="images.upload"} 1"#,
        r#"vitrail_http_requests_total{code="200",route="images.download"} 1"#,
        "vitrail_image_received_bytes_total 5",
        "vitrail_image_sent_bytes_total 5",
        "vitrail_images 1",
        "vitrail_chunks 1",
        "vitrail_store_logical_bytes 5",
    ] {
        assert!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
}
