//! What happens to uploads that go wrong?

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::Connection;
use crate::site::{Site, noise};

/// The head of an upload, without the line that tells its length.
fn head(id: &str) -> String {
    format!(
        "PUT /v2/images/{id}/file HTTP/1.1\r\nHost: site\r\n\
         Content-Type: application/octet-stream\r\n"
    )
}

/// The image has no bytes and takes some, at the latest when an upload that was cut off has been noticed.
#[track_caller]
fn is_queued_and_works(site: &Site, id: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        site.wait_for_status(id, "queued", Duration::from_secs(10));
        let image = site.show(id);
        assert_eq!(image["size"], Value::Null);
        assert_eq!(image["checksum"], Value::Null);
        match site.upload(id, "retry").send() {
            // The cut off one began only now.
            answer if answer.status == 409 => assert!(Instant::now() < deadline),
            answer => {
                answer.expect(204);
                break;
            }
        }
    }
    assert_eq!(site.download(id), b"retry");
}

#[test]
fn a_client_that_leaves_half_way() {
    let site = Site::start();
    for framing in ["Content-Length: 4000000", "Transfer-Encoding: chunked"] {
        let id = site.create(json!({}));
        let mut connection = Connection::open(site.api);
        connection
            .send(format!("{}{framing}\r\n\r\n", head(&id)))
            .unwrap();
        if framing.contains("chunked") {
            connection.send("1e8480\r\n").unwrap();
        }
        connection.send(noise(1, 2_000_000)).unwrap();
        site.wait_for_status(&id, "saving", Duration::from_secs(10));
        drop(connection);
        is_queued_and_works(&site, &id);
    }
    // What the two left behind is not part of anything.
    site.collect();
    assert_eq!(site.store()["logical_bytes"], "retry".len());
    assert_eq!(site.store()["chunks"], 1);
}

#[test]
fn a_client_that_stops_sending_and_waits() {
    let site = Site::start();
    let id = site.create(json!({}));
    let mut connection = Connection::open(site.api);
    connection
        .send(format!("{}Content-Length: 1000\r\n\r\nshort", head(&id)))
        .unwrap();
    connection.end_sending();
    is_queued_and_works(&site, &id);
}

#[test]
fn a_client_that_leaves_at_once() {
    let site = Site::start();
    let ids: Vec<String> = (0..20).map(|_| site.create(json!({}))).collect();
    for id in &ids {
        let mut connection = Connection::open(site.api);
        connection
            .send(format!("{}Content-Length: 5\r\n\r\n", head(id)))
            .unwrap();
    }
    for id in &ids {
        is_queued_and_works(&site, id);
    }
}

#[test]
fn sizes_that_are_not_as_announced() {
    let site = Site::start();
    let id = site.create(json!({}));
    for (announced, status) in [("5", 400), ("500", 400), ("five", 400), ("-1", 400)] {
        site.upload(&id, vec![7; 100])
            .header("X-OpenStack-Image-Size", announced)
            .send()
            .expect(status);
    }
    // Chunked, where only the header tells.
    let mut connection = Connection::open(site.api);
    let head = head(&id) + "Transfer-Encoding: chunked\r\nX-OpenStack-Image-Size: 6\r\n\r\n";
    connection.send(head + "5\r\nhello\r\n0\r\n\r\n").unwrap();
    let answer = connection.answer().unwrap().expect(400);
    assert!(answer.text().contains("6"), "{}", answer.text());
    is_queued_and_works(&site, &id);
}

#[test]
fn a_content_length_that_lies() {
    let site = Site::with(|config| config.api.idle_timeout_s = 1);
    let id = site.create(json!({}));
    // More than was announced: what follows is no part of the image, nor a request.
    let mut connection = Connection::open(site.api);
    connection
        .send(format!("{}Content-Length: 5\r\n\r\nhelloworld", head(&id)))
        .unwrap();
    connection.answer().unwrap().expect(204);
    assert_eq!(site.download(&id), b"hello");
    if let Ok(answer) = connection.answer() {
        answer.expect(400);
    }

    for length in [
        "-5",
        "5x",
        "99999999999999999999999",
        "5\r\nContent-Length: 6",
    ] {
        let id = site.create(json!({}));
        let mut connection = Connection::open(site.api);
        let head = format!("{}Content-Length: {length}\r\n\r\nhello", head(&id));
        connection.send(head).unwrap();
        if let Ok(answer) = connection.answer() {
            answer.expect(400);
        }
        is_queued_and_works(&site, &id);
    }
}

#[test]
fn chunks_that_are_no_chunks() {
    let site = Site::start();
    for body in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloworld\r\n",
        "ffffffffffffffffff\r\n",
    ] {
        let id = site.create(json!({}));
        let mut connection = Connection::open(site.api);
        connection
            .send(head(&id) + "Transfer-Encoding: chunked\r\n\r\n" + body)
            .unwrap();
        if let Ok(answer) = connection.answer() {
            answer.expect(400);
        }
        is_queued_and_works(&site, &id);
    }
}

#[test]
fn a_client_that_falls_silent() {
    let site = Site::with(|config| config.api.idle_timeout_s = 1);
    let id = site.create(json!({}));
    let mut connection = Connection::open(site.api);
    connection
        .send(format!("{}Content-Length: 100\r\n\r\nhello", head(&id)))
        .unwrap();
    let answer = connection.answer().unwrap().expect(400);
    assert!(answer.text().contains("too slow"), "{}", answer.text());
    is_queued_and_works(&site, &id);
}

#[test]
fn a_client_that_sends_a_byte_now_and_then() {
    let site = Site::with(|config| config.api.idle_timeout_s = 2);
    let id = site.create(json!({}));
    let mut connection = Connection::open(site.api);
    connection
        .send(format!("{}Content-Length: 1000000\r\n\r\n", head(&id)))
        .unwrap();
    // Never silent for as long as the timeout, and never fast enough.
    while connection.send("x").is_ok() && site.status(&id) != "queued" {
        std::thread::sleep(Duration::from_millis(200));
    }
    is_queued_and_works(&site, &id);
}

#[test]
fn an_image_that_is_deleted_meanwhile() {
    let site = Site::start();
    let id = site.create(json!({}));
    let mut connection = Connection::open(site.api);
    connection
        .send(format!("{}Content-Length: 10\r\n\r\nhello", head(&id)))
        .unwrap();
    site.wait_for_status(&id, "saving", Duration::from_secs(10));
    site.delete(&id).expect(204);
    connection.send("world").unwrap();
    connection.answer().unwrap().expect(410);
    site.get(&format!("/v2/images/{id}")).expect(404);
    site.collect();
    assert_eq!(site.store()["chunks"], 0);
}

#[test]
fn an_image_that_is_deleted_early_in_a_long_upload() {
    let site = Site::start();
    let id = site.create(json!({}));
    let len = 1 << 30;
    let mut connection = Connection::open(site.api);
    connection
        .send(format!("{}Content-Length: {len}\r\n\r\n", head(&id)))
        .unwrap();
    connection.send(noise(1, 1 << 20)).unwrap();
    site.wait_for_status(&id, "saving", Duration::from_secs(10));
    site.delete(&id).expect(204);
    // Long before the end the answer is there.
    let block = vec![0; 1 << 20];
    let mut sent = 1 << 20;
    while sent < 200 << 20 && connection.send(&block).is_ok() {
        sent += block.len();
    }
    connection.answer().unwrap().expect(410);
}

#[test]
fn two_uploads_at_once() {
    let site = Site::start();
    let id = site.create(json!({}));
    let mut first = Connection::open(site.api);
    first
        .send(format!("{}Content-Length: 10\r\n\r\nhello", head(&id)))
        .unwrap();
    site.wait_for_status(&id, "saving", Duration::from_secs(10));
    site.upload(&id, "second").send().expect(409);
    first.send("world").unwrap();
    first.answer().unwrap().expect(204);
    assert_eq!(site.download(&id), b"helloworld");
}

#[test]
fn more_uploads_than_memory_has_room_for() {
    let site = Site::with(|config| config.store.memory.0 = 1 << 20);
    let ids: Vec<String> = (0..4).map(|_| site.create(json!({}))).collect();
    std::thread::scope(|scope| {
        for (seed, id) in ids.iter().enumerate() {
            let site = *site;
            scope.spawn(move || {
                let bytes = noise(seed as u64, 2_000_000);
                site.upload(id, bytes).send().expect(204);
            });
        }
    });
    for (seed, id) in ids.iter().enumerate() {
        assert!(site.download(id) == noise(seed as u64, 2_000_000));
    }
}

#[test]
fn memory_that_stays_in_use() {
    let site = Site::with(|config| {
        config.store.memory.0 = 1 << 20;
        config.api.idle_timeout_s = 2;
    });
    let (slow, waiting) = (site.create(json!({})), site.create(json!({})));
    let mut connection = Connection::open(site.api);
    connection
        .send(format!("{}Content-Length: 100000\r\n\r\n", head(&slow)))
        .unwrap();
    site.wait_for_status(&slow, "saving", Duration::from_secs(10));
    let feeder = std::thread::spawn(move || {
        // Just fast enough not to be given up.
        while connection.send("x".repeat(1000)).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let answer = site.upload(&waiting, "bytes").send().expect(503);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(site.status(&waiting), "queued");
    feeder.join().unwrap();
    is_queued_and_works(&site, &waiting);
}

#[test]
fn the_body_is_asked_for_only_when_it_is_wanted() {
    let site = Site::start();
    let active = site.image(b"bytes");
    let no_format = site.create(json!({"disk_format": null}));
    let asks = |id: &str, kind: &str| {
        let mut connection = Connection::open(site.api);
        connection
            .send(format!(
                "PUT /v2/images/{id}/file HTTP/1.1\r\nHost: site\r\nContent-Type: {kind}\r\n\
                 Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
            ))
            .unwrap();
        let first = connection.answer().unwrap().status;
        (first, connection)
    };
    let octets = "application/octet-stream";
    assert_eq!(asks(&active, octets).0, 409);
    assert_eq!(asks(&active, "text/plain").0, 415);
    assert_eq!(asks(&no_format, octets).0, 400);
    assert_eq!(asks("00000000-0000-0000-0000-000000000000", octets).0, 404);

    let id = site.create(json!({}));
    let (first, mut connection) = asks(&id, octets);
    assert_eq!(first, 100);
    connection.send("hello").unwrap();
    connection.answer().unwrap().expect(204);
    assert_eq!(site.download(&id), b"hello");
}

#[test]
fn an_image_larger_than_allowed() {
    let site = Site::with(|config| config.images.size_cap.0 = 1000);
    let id = site.create(json!({}));
    site.upload(&id, vec![1; 1001]).send().expect(413);
    let mut connection = Connection::open(site.api);
    let body = "3e9\r\n".to_owned() + &"x".repeat(1001) + "\r\n0\r\n\r\n";
    connection
        .send(head(&id) + "Transfer-Encoding: chunked\r\n\r\n" + &body)
        .unwrap();
    connection.answer().unwrap().expect(413);
    is_queued_and_works(&site, &id);
    site.collect();
    assert_eq!(site.store()["chunks"], 1);
}

#[test]
fn connections_are_kept() {
    let site = Site::start();
    let id = site.create(json!({}));
    let mut connection = Connection::open(site.api);
    let upload = head(&id);
    // A refused upload, the upload, a download and a list, one after the other.
    connection
        .send(upload.replace("octet-stream", "x") + "Content-Length: 5\r\n\r\nhello")
        .unwrap();
    connection.answer().unwrap().expect(415);
    connection
        .send(upload + "Content-Length: 5\r\n\r\nhello")
        .unwrap();
    connection.answer().unwrap().expect(204);
    for path in [format!("/v2/images/{id}/file"), "/v2/images".into()] {
        connection
            .send(format!("GET {path} HTTP/1.1\r\nHost: site\r\n\r\n"))
            .unwrap();
        connection.answer().unwrap().expect(200);
    }
}
