//! What happens when a project has what it may have?

use serde_json::json;
use vitraild::config::{ByteSize, QuotaConfig};

use crate::keystone::Keystone;
use crate::site::{Client, Site};

fn limited(adjust: impl FnOnce(&mut vitraild::config::QuotasConfig)) -> (Keystone, Site) {
    let keystone = Keystone::start();
    let site = Site::with(|config| {
        keystone.configure(config);
        adjust(&mut config.quotas);
    });
    (keystone, site)
}

fn create(client: &Client) -> u16 {
    let request = client.request("POST", "/v2/images");
    request.json(&json!({})).send().status
}

#[test]
fn images_are_counted_by_project() {
    let (_keystone, site) = limited(|quotas| {
        quotas.image_count = Some(2);
        let more = QuotaConfig {
            image_count: Some(3),
            ..QuotaConfig::default()
        };
        quotas.project.insert("p-alt".into(), more);
    });
    let (demo, alt) = (site.with_token("demo"), site.with_token("alt"));
    let first = demo.create(json!({}));
    assert_eq!(create(&demo), 201);
    assert_eq!(create(&demo), 413);
    // The administrator makes it for somebody, for whom it counts.
    let admin = site.with_token("admin");
    let for_demo = admin
        .request("POST", "/v2/images")
        .json(&json!({"owner": "p-demo"}));
    for_demo.send().expect(413);
    for expected in [201, 201, 201, 413] {
        assert_eq!(create(&alt), expected);
    }
    demo.delete(&first).expect(204);
    assert_eq!(create(&demo), 201);
}

#[test]
fn bytes_are_counted() {
    let (_keystone, site) = limited(|quotas| quotas.image_size = Some(ByteSize(3 << 20)));
    let demo = site.with_token("demo");
    let first = demo.create(json!({}));
    demo.upload(&first, vec![1; 2 << 20]).send().expect(204);
    // Declared, and then not.
    let second = demo.create(json!({}));
    demo.upload(&second, vec![1; (1 << 20) + 1])
        .send()
        .expect(413);
    assert_eq!(demo.status(&second), "queued");
    let mut body = b"200000\r\n".to_vec();
    body.extend(vec![1; 0x20_0000]);
    body.extend(b"\r\n0\r\n\r\n");
    let mut connection = crate::http::Connection::open(site.api);
    let head = format!(
        "PUT /v2/images/{second}/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: demo\r\n\
         Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    connection.send(head).unwrap();
    connection.send(body).unwrap();
    connection.answer().unwrap().expect(413);
    assert_eq!(demo.status(&second), "queued");
    // What fits exactly.
    demo.upload(&second, vec![1; 1 << 20]).send().expect(204);
    // Another project has a quota of its own.
    let alt = site.with_token("alt");
    let theirs = alt.create(json!({}));
    alt.upload(&theirs, vec![1; 3 << 20]).send().expect(204);
}

#[test]
fn uploads_are_counted_while_they_run() {
    let (_keystone, site) = limited(|quotas| quotas.uploading_count = Some(1));
    let demo = site.with_token("demo");
    let (first, second) = (demo.create(json!({})), demo.create(json!({})));
    let mut connection = crate::http::Connection::open(site.api);
    let head = format!(
        "PUT /v2/images/{first}/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: demo\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: 5\r\n\r\nhel"
    );
    connection.send(head).unwrap();
    demo.wait_for_status(&first, "saving", std::time::Duration::from_secs(30));
    demo.upload(&second, b"hello".to_vec()).send().expect(413);
    let usage = demo.get("/v2/info/usage").expect(200).json();
    assert_eq!(
        usage["usage"]["image_count_uploading"],
        json!({"usage": 1, "limit": 1})
    );
    connection.send("lo").unwrap();
    connection.answer().unwrap().expect(204);
    demo.upload(&second, b"hello".to_vec()).send().expect(204);
}

#[test]
fn usage_is_told() {
    let (_keystone, site) = limited(|quotas| {
        quotas.image_count = Some(10);
        quotas.image_size = Some(ByteSize(5 << 30));
    });
    let demo = site.with_token("demo");
    let id = demo.create(json!({}));
    demo.upload(&id, vec![1; 3 << 20]).send().expect(204);
    demo.create(json!({}));
    let usage = |client: &Client| client.get("/v2/info/usage").expect(200).json();
    assert_eq!(
        usage(&demo),
        json!({"usage": {
            "image_count_total": {"usage": 2, "limit": 10},
            "image_size_total": {"usage": 3, "limit": 5120},
        }})
    );
    assert_eq!(
        usage(&site.with_token("alt"))["usage"]["image_count_total"]["usage"],
        0
    );
    // Where nothing is limited, nothing is told.
    let unlimited = Site::start();
    assert_eq!(usage(&unlimited), json!({"usage": {}}));
}

#[test]
fn staged_bytes_are_counted_apart() {
    let (_keystone, site) = limited(|quotas| {
        quotas.staging_size = Some(ByteSize(1 << 20));
        quotas.image_size = Some(ByteSize(4 << 20));
    });
    let demo = site.with_token("demo");
    let stage = |id: &str, len: usize| {
        let request = demo.request("PUT", &format!("/v2/images/{id}/stage"));
        let request = request.header("Content-Type", "application/octet-stream");
        request.bytes(vec![1; len]).send().status
    };
    let usage = |name: &str| {
        let usage = demo.get("/v2/info/usage").expect(200).json();
        usage["usage"][name]["usage"].as_u64().unwrap()
    };
    let (first, second) = (demo.create(json!({})), demo.create(json!({})));
    assert_eq!(stage(&first, 1 << 20), 204);
    assert_eq!(stage(&second, 1), 413);
    assert_eq!(demo.status(&second), "queued");
    assert_eq!(
        (usage("image_stage_total"), usage("image_size_total")),
        (1, 0)
    );
    let import = demo.request("POST", &format!("/v2/images/{first}/import"));
    import
        .json(&json!({"method": {"name": "glance-direct"}}))
        .send()
        .expect(202);
    demo.wait_for_status(&first, "active", std::time::Duration::from_secs(60));
    assert_eq!(
        (usage("image_stage_total"), usage("image_size_total")),
        (0, 1)
    );
    assert_eq!(stage(&second, 1), 204);
}
