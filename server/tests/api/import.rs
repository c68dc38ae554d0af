//! Do images get their bytes by staging and from the web, and only such bytes as they may have?

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha512};
use vitraild::config::ByteSize;

use crate::http::{Answer, Connection};
use crate::site::{Client, Process, Site, noise};
use crate::web::{Web, ok, redirect};

const PATIENCE: Duration = Duration::from_secs(60);

fn stage(client: &Client, id: &str, bytes: &[u8]) -> Answer {
    client
        .request("PUT", &format!("/v2/images/{id}/stage"))
        .header("Content-Type", "application/octet-stream")
        .bytes(bytes)
        .send()
}

fn import(client: &Client, id: &str, body: &Value) -> Answer {
    client
        .request("POST", &format!("/v2/images/{id}/import"))
        .json(body)
        .send()
}

fn direct(client: &Client, id: &str) -> Answer {
    import(client, id, &json!({"method": {"name": "glance-direct"}}))
}

fn download(client: &Client, id: &str, url: &str) -> Answer {
    let method = json!({"name": "web-download", "uri": url});
    import(client, id, &json!({"method": method}))
}

/// The last task of an image, when it has ended.
#[track_caller]
fn ended_task(client: &Client, id: &str) -> Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let tasks = client
            .get(&format!("/v2/images/{id}/tasks"))
            .expect(200)
            .json();
        let last = tasks["tasks"].as_array().unwrap().last().cloned();
        let last = last.expect("a task");
        if last["status"] != "processing" {
            return last;
        }
        assert!(std::time::Instant::now() < deadline, "{last}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A site that reads from web servers of this machine.
fn trusting_site() -> Site {
    Site::with(|config| {
        config.import.allow_private = true;
        config.import.allowed_ports.clear();
    })
}

#[test]
fn staged_bytes_become_the_images() {
    let mut site = Site::start();
    let bytes = noise(60, 3_000_000);
    let id = site.create(json!({}));
    direct(&site, &id).expect(409);
    stage(&site, &id, &bytes).expect(204);
    let shown = site.show(&id);
    assert_eq!(shown["status"], "uploading", "{shown}");
    assert_eq!(shown["size"], bytes.len(), "{shown}");
    assert_eq!(shown["checksum"], Value::Null, "{shown}");
    assert_eq!(shown.get("stores"), None, "{shown}");
    stage(&site, &id, b"again").expect(409);
    site.upload(&id, b"other").send().expect(409);
    site.get(&format!("/v2/images/{id}/file")).expect(204);
    download(&site, &id, "http://images.example/x").expect(409);

    // Nothing of it goes with a restart or a collection.
    site.restart(|_| {});
    assert_eq!(site.status(&id), "uploading");
    assert_eq!(site.collect()["dead_chunks"], 0);

    direct(&site, &id).expect(202);
    site.wait_for_status(&id, "active", PATIENCE);
    let task = ended_task(&site, &id);
    assert_eq!(task["status"], "success", "{task}");
    assert_eq!(task["type"], "api_image_import", "{task}");
    assert_eq!(task["result"]["image_id"], id, "{task}");
    assert!(task["expires_at"].is_string(), "{task}");
    let shown = site.show(&id);
    assert_eq!(shown["virtual_size"], bytes.len(), "{shown}");
    assert_eq!(shown["stores"], "local", "{shown}");
    assert_eq!(shown["os_glance_importing_to_stores"], "", "{shown}");
    assert_eq!(shown["os_glance_failed_import"], "", "{shown}");
    assert_eq!(shown["os_hash_value"], hex::encode(Sha512::digest(&bytes)));
    assert!(site.download(&id) == bytes);
    direct(&site, &id).expect(409);

    let listed = site.get("/v2/tasks").expect(200).json();
    assert_eq!(listed["tasks"][0]["id"], task["id"], "{listed}");
    let path = format!("/v2/tasks/{}", task["id"].as_str().unwrap());
    assert_eq!(site.get(&path).expect(200).json()["status"], "success");
    let removal = site.request("DELETE", &path).send().expect(405);
    assert_eq!(removal.header("allow"), Some("GET"));
}

#[test]
fn what_was_staged_survives_a_kill() {
    let directory = tempfile::TempDir::new().unwrap();
    let data_dir = directory.path().join("data");
    let bytes = noise(67, 1_000_000);
    let mut site = Process::start(&data_dir);
    let id = site.create(json!({}));
    stage(&site, &id, &bytes).expect(204);
    // Another one is under way.
    let other = site.create(json!({}));
    let mut connection = Connection::open(site.api);
    let head = format!(
        "PUT /v2/images/{other}/stage HTTP/1.1\r\nHost: site\r\nContent-Length: 1000000\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    connection.send(head).unwrap();
    connection.send(&bytes[..500_000]).unwrap();
    site.wait_for_status(&other, "uploading", PATIENCE);
    site.kill();
    let site = Process::start(&data_dir);
    assert_eq!(site.status(&other), "queued");
    assert_eq!(site.status(&id), "uploading");
    direct(&site, &id).expect(202);
    site.wait_for_status(&id, "active", PATIENCE);
    assert!(site.download(&id) == bytes);
}

#[test]
fn staged_bytes_that_contradict_the_format_are_dropped() {
    let site = Site::start();
    let id = site.create(json!({"disk_format": "qcow2"}));
    stage(&site, &id, &noise(61, 500_000)).expect(204);
    direct(&site, &id).expect(202);
    let task = ended_task(&site, &id);
    assert_eq!(task["status"], "failure", "{task}");
    let message = task["message"].as_str().unwrap();
    assert!(message.contains("does not match"), "{task}");
    let shown = site.show(&id);
    assert_eq!(shown["status"], "queued", "{shown}");
    assert_eq!(shown["size"], Value::Null, "{shown}");
    assert_eq!(shown["os_glance_failed_import"], "local", "{shown}");
    assert!(site.collect()["dead_chunks"].as_u64().unwrap() > 0);
    // The id can be used.
    let format = json!([{"op": "replace", "path": "/disk_format", "value": "raw"}]);
    site.patch(&id, &format).expect(200);
    stage(&site, &id, b"bytes").expect(204);
    direct(&site, &id).expect(202);
    site.wait_for_status(&id, "active", PATIENCE);
    assert_eq!(site.download(&id), b"bytes");
}

#[test]
fn the_staging_area_has_a_bound() {
    let site = Site::with(|config| config.import.staging_cap = ByteSize(1_000_000));
    let [first, second] = [(); 2].map(|()| site.create(json!({})));
    stage(&site, &first, &noise(62, 700_000)).expect(204);
    stage(&site, &second, &noise(63, 400_000)).expect(413);
    assert_eq!(site.status(&second), "queued");
    // Without a length it shows on the way.
    let mut connection = Connection::open(site.api);
    let head = format!(
        "PUT /v2/images/{second}/stage HTTP/1.1\r\nHost: site\r\nTransfer-Encoding: chunked\r\n\
         Content-Type: application/octet-stream\r\n\r\n61a80\r\n"
    );
    connection.send(head).unwrap();
    // It may have been answered, and closed, by now.
    let _refused = connection.send(noise(64, 400_000));
    let _refused = connection.send("\r\n0\r\n\r\n");
    connection.answer().unwrap().expect(413);
    site.wait_for_status(&second, "queued", PATIENCE);
    site.delete(&first).expect(204);
    stage(&site, &second, &noise(63, 400_000)).expect(204);
}

#[test]
fn imports_are_checked_in_glances_order() {
    let site = Site::start();
    let id = site.create(json!({}));
    let path = format!("/v2/images/{id}/import");
    site.request("POST", &path).bytes("").send().expect(400);
    let unknown = "12345678-1234-1234-1234-123456789abc";
    for (body, status) in [
        (json!({}), 400),
        (json!({"method": {}}), 400),
        (json!({"method": {"name": "x"}}), 400),
        (
            json!({"method": {"name": "web-download"}, "all_stores": "yes"}),
            400,
        ),
        (json!({"method": {"name": "copy-image"}, "stores": []}), 400),
        (
            json!({"method": {"name": "copy-image"}, "stores": ["local"], "all_stores": true}),
            400,
        ),
        (json!({"method": {"name": "glance-direct"}}), 409),
        (json!({"method": {"name": "copy-image"}}), 409),
        (
            json!({"method": {"name": "web-download"}, "stores": ["atlantis"]}),
            409,
        ),
        (json!({"method": {"name": "web-download"}}), 400),
    ] {
        let answer = import(&site, &id, &body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
    }
    // What is wrong with the request comes before what is wrong with the image.
    import(&site, unknown, &json!({"method": {}})).expect(400);
    import(&site, unknown, &json!({"method": {"name": "web-download"}})).expect(404);
    let formless = site.create(json!({"disk_format": null}));
    download(&site, &formless, "http://images.example/x").expect(409);
    let off = Site::with(|config| config.import.methods.clear());
    let id = off.create(json!({}));
    stage(&off, &id, b"bytes").expect(404);
    direct(&off, &id).expect(400);
}

#[test]
fn bytes_come_from_the_web() {
    let site = trusting_site();
    let bytes = noise(65, 2_000_000);
    let web = Web::serve([("/disk", ok(&bytes)), ("/moved", redirect("/disk"))]);
    for path in ["/disk", "/moved"] {
        let id = site.create(json!({}));
        download(&site, &id, &web.url(path)).expect(202);
        site.wait_for_status(&id, "active", PATIENCE);
        let task = ended_task(&site, &id);
        assert_eq!(task["status"], "success", "{task}");
        assert_eq!(task["input"]["import_req"]["method"]["uri"], web.url(path));
        assert!(site.download(&id) == bytes);
    }
}

#[test]
fn what_the_web_does_wrong_leaves_the_image_queued_with_the_reason() {
    let site = Site::with(|config| {
        config.import.allow_private = true;
        config.import.allowed_ports.clear();
        config.images.size_cap = ByteSize(1_000_000);
        config.api.idle_timeout_s = 1;
    });
    let short = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort".to_vec();
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), noise(66, 3_000_000)].concat();
    let zipped =
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx".to_vec();
    let web = Web::serve([
        ("/short", short),
        ("/large", ok(&noise(66, 1_500_000))),
        ("/endless", endless),
        ("/zipped", zipped),
        ("/loop", redirect("/loop")),
        ("/file", redirect("file:///etc/passwd")),
        ("/format", ok(b"no qcow2 at all")),
    ]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}/", silent.local_addr().unwrap());
    let refused = "http://127.0.0.1:1/".to_owned();
    for (url, reason) in [
        (web.url("/short"), "cut off"),
        (web.url("/large"), "maximum size"),
        (web.url("/endless"), "maximum size"),
        (web.url("/zipped"), "encoding"),
        (web.url("/loop"), "redirects"),
        (web.url("/file"), "filtering"),
        (web.url("/absent"), "404"),
        (web.url("/format"), "does not match"),
        (silent, "cannot be read"),
        (refused, "cannot be read"),
    ] {
        let id = site.create(json!({"disk_format": "qcow2"}));
        if url.contains("/short") || url.contains("/large") || url.contains("/endless") {
            let format = json!([{"op": "replace", "path": "/disk_format", "value": "raw"}]);
            site.patch(&id, &format).expect(200);
        }
        download(&site, &id, &url).expect(202);
        let task = ended_task(&site, &id);
        assert_eq!(task["status"], "failure", "{url}: {task}");
        assert!(
            task["message"].as_str().unwrap().contains(reason),
            "{url}: {task}"
        );
        let shown = site.show(&id);
        assert_eq!(shown["status"], "queued", "{url}: {shown}");
        assert_eq!(shown["size"], Value::Null, "{url}: {shown}");
        assert_eq!(shown["os_glance_failed_import"], "local", "{url}: {shown}");
        assert_eq!(shown.get("os_glance_import_task"), None, "{url}: {shown}");
    }
}

#[test]
fn the_web_is_no_way_into_the_site() {
    let site = Site::with(|config| config.import.allowed_ports.clear());
    let web = Web::serve([("/secret", ok(b"secret"))]);
    let id = site.create(json!({}));
    for url in [
        web.url("/secret"),
        "http://169.254.169.254/latest/meta-data".into(),
        "file:///etc/passwd".into(),
        "ftp://images.example/disk".into(),
    ] {
        download(&site, &id, &url).expect(400);
    }
    // A name is resolved only when the import runs.
    let port = web.address.port();
    download(&site, &id, &format!("http://localhost:{port}/secret")).expect(202);
    let task = ended_task(&site, &id);
    assert_eq!(task["status"], "failure", "{task}");
    assert!(
        task["message"].as_str().unwrap().contains("public"),
        "{task}"
    );
    assert_eq!(web.requests.load(Ordering::SeqCst), 0);
}

#[test]
fn a_stop_ends_imports_and_the_image_is_queued() {
    let mut site = trusting_site();
    // Accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let id = site.create(json!({}));
    let url = format!("http://{}/", silent.local_addr().unwrap());
    download(&site, &id, &url).expect(202);
    assert_eq!(site.status(&id), "importing");
    download(&site, &id, &url).expect(409);
    site.restart(|_| {});
    assert_eq!(site.status(&id), "queued");
    let task = ended_task(&site, &id);
    assert!(
        task["message"].as_str().unwrap().contains("stopping"),
        "{task}"
    );
}

#[test]
fn tasks_of_an_image_are_few() {
    let site = trusting_site();
    let web = Web::serve([]);
    let id = site.create(json!({}));
    for _ in 0..10 {
        download(&site, &id, &web.url("/absent")).expect(202);
        ended_task(&site, &id);
    }
    let tasks = site
        .get(&format!("/v2/images/{id}/tasks"))
        .expect(200)
        .json();
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 8);
    let page = site
        .get("/v2/tasks?limit=3&status=failure")
        .expect(200)
        .json();
    assert_eq!(page["tasks"].as_array().unwrap().len(), 3);
    let next = page["next"].as_str().unwrap();
    let rest = site.get(next).expect(200).json();
    assert_ne!(rest["tasks"][0]["id"], page["tasks"][0]["id"]);
    site.get("/v2/tasks?limit=x").expect(400);
    site.get("/v2/tasks?marker=x").expect(400);
}
