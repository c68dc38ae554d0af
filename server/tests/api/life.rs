//! Does an image live as the API says, from create to delete?

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::site::{Site, noise};

#[test]
fn a_whole_life() {
    let site = Site::start();
    let created = site
        .request("POST", "/v2/images")
        .json(&json!({
            "name": "été", "disk_format": "raw", "container_format": "bare", "min_ram": 512,
            "tags": ["a", "b", "a"], "os_distro": "debian", "trait:HW_CPU_X86_AVX2": "required",
        }))
        .send()
        .expect(201);
    let image = created.json();
    let id = image["id"].as_str().unwrap();
    let url = format!("http://{}/v2/images/{id}", site.api);
    assert_eq!(created.header("location"), Some(url.as_str()));
    assert_eq!(image["status"], "queued");
    assert_eq!(image["name"], "été");
    assert_eq!(image["min_ram"], 512);
    assert_eq!(image["trait:HW_CPU_X86_AVX2"], "required");
    let tags: BTreeSet<_> = image["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag.as_str().unwrap())
        .collect();
    assert_eq!(tags, BTreeSet::from(["a", "b"]));
    for nothing in [
        "size",
        "virtual_size",
        "checksum",
        "os_hash_algo",
        "os_hash_value",
    ] {
        assert_eq!(image.get(nothing), Some(&Value::Null), "{nothing}");
    }
    assert_eq!(
        site.get(&format!("/v2/images/{id}/file"))
            .expect(204)
            .body
            .len(),
        0
    );

    let bytes = noise(1, 3_000_001);
    site.upload(id, bytes.clone()).send().expect(204);
    let image = site.show(id);
    assert_eq!(image["status"], "active");
    assert_eq!(image["size"], bytes.len());
    assert_eq!(image["virtual_size"], bytes.len());
    assert_eq!(image["checksum"], md5(&bytes));
    assert_eq!(image["os_hash_algo"], "sha512");
    assert_eq!(image["os_hash_value"], sha512(&bytes));
    let file = site.get(&format!("/v2/images/{id}/file")).expect(200);
    assert!(file.body == bytes, "the same bytes come back");
    assert_eq!(file.header("content-md5"), Some(md5(&bytes).as_str()));
    assert_eq!(file.header("accept-ranges"), Some("bytes"));
    site.upload(id, "again").send().expect(409);

    let action = |action| {
        site.request("POST", &format!("/v2/images/{id}/actions/{action}"))
            .send()
    };
    action("deactivate").expect(204);
    assert_eq!(site.status(id), "deactivated");
    site.upload(id, "again").send().expect(409);
    action("reactivate").expect(204);
    action("reactivate").expect(204);
    assert_eq!(site.status(id), "active");

    let protect = |on| json!([{"op": "replace", "path": "/protected", "value": on}]);
    site.patch(id, &protect(true)).expect(200);
    site.delete(id).expect(403);
    assert_eq!(site.status(id), "active");
    site.patch(id, &protect(false)).expect(200);
    site.delete(id).expect(204);
    site.delete(id).expect(404);
    site.get(&format!("/v2/images/{id}")).expect(404);
    site.get(&format!("/v2/images/{id}/file")).expect(404);
    let again = site
        .request("POST", "/v2/images")
        .json(&json!({"id": id}))
        .send();
    again.expect(409);

    let collected = site.collect();
    assert_eq!(collected["dead_manifests"], 1, "{collected}");
    assert_eq!(site.store()["chunks"], 0);
}

#[test]
fn an_image_without_bytes_in_it() {
    let site = Site::start();
    let id = site.image(b"");
    let image = site.show(&id);
    assert_eq!(image["status"], "active");
    assert_eq!(image["size"], 0);
    assert_eq!(image["checksum"], md5(b""));
    assert_eq!(site.download(&id), b"");
}

#[test]
fn what_was_acknowledged_survives_a_restart() {
    let mut site = Site::start();
    let bytes = noise(2, 1_500_000);
    let kept = site.image(&bytes);
    let queued = site.create(json!({"name": "queued", "tags": ["t"], "k": "v"}));
    let deleted = site.image(b"deleted");
    site.delete(&deleted).expect(204);
    let before = [site.show(&kept), site.show(&queued)];
    site.restart(|_| {});
    assert_eq!([site.show(&kept), site.show(&queued)], before);
    assert!(site.download(&kept) == bytes);
    site.get(&format!("/v2/images/{deleted}")).expect(404);
    let again = site
        .request("POST", "/v2/images")
        .json(&json!({"id": deleted}))
        .send();
    again.expect(409);
}

#[test]
fn tags_one_by_one() {
    let site = Site::start();
    let id = site.create(json!({}));
    let tag = |method, tag: &str| {
        let path = format!("/v2/images/{id}/tags/{tag}");
        site.request(method, &path).send()
    };
    tag("PUT", "blue").expect(204);
    tag("PUT", "blue").expect(204);
    tag("PUT", "a%20b").expect(204);
    assert_eq!(site.show(&id)["tags"], json!(["a b", "blue"]));
    tag("DELETE", "blue").expect(204);
    tag("DELETE", "blue").expect(404);
    tag("GET", "a%20b").expect(405);
    tag("PUT", &"t".repeat(256)).expect(400);
    for n in 1..128 {
        tag("PUT", &format!("t{n}")).expect(204);
    }
    tag("PUT", "one-too-many").expect(413);
}

#[test]
fn one_content_is_stored_once() {
    let site = Site::start();
    let bytes = noise(3, 2_000_000);
    let first = site.image(&bytes);
    let one = site.store();
    let second = site.image(&bytes);
    let two = site.store();
    assert_eq!(two["chunks"], one["chunks"]);
    assert_eq!(two["pack_bytes"], one["pack_bytes"]);
    site.delete(&first).expect(204);
    site.collect();
    assert!(site.download(&second) == bytes, "the other still has them");
}

fn md5(bytes: &[u8]) -> String {
    use md5::{Digest as _, Md5};
    hex(&Md5::digest(bytes))
}

fn sha512(bytes: &[u8]) -> String {
    use sha2::{Digest as _, Sha512};
    hex(&Sha512::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
