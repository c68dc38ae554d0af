//! Does a patch change what it may, all of it or nothing?

use serde_json::{Value, json};

use crate::site::Site;

const ADD: &str = "add";
const REPLACE: &str = "replace";

#[test]
fn protected_and_read_only_fields() {
    let site = Site::start();
    let id = site.image(b"bytes");
    let before = site.show(&id);
    for field in [
        "id",
        "status",
        "size",
        "virtual_size",
        "checksum",
        "os_hash_algo",
        "os_hash_value",
        "created_at",
        "updated_at",
        "self",
        "file",
        "schema",
        "direct_url",
        "stores",
        "locations",
        "location",
        "deleted",
        "deleted_at",
        "os_glance_x",
        // Fixed once there are bytes.
        "disk_format",
        "container_format",
    ] {
        for op in [ADD, REPLACE, "remove"] {
            let operation = json!({"op": op, "path": format!("/{field}"), "value": "raw"});
            let answer = site.patch(&id, &json!([operation]));
            assert_eq!(answer.status, 403, "{op} {field}: {}", answer.text());
        }
    }
    for field in [
        "name",
        "visibility",
        "owner",
        "protected",
        "os_hidden",
        "min_disk",
        "tags",
    ] {
        let operation = json!({"op": "remove", "path": format!("/{field}")});
        site.patch(&id, &json!([operation])).expect(403);
    }
    assert_eq!(site.show(&id), before);
}

#[test]
fn all_or_nothing() {
    let site = Site::start();
    let id = site.create(json!({"name": "before", "tags": ["t"], "k": "v"}));
    let before = site.show(&id);
    let operations = json!([
        {"op": REPLACE, "path": "/name", "value": "after"},
        {"op": ADD, "path": "/tags", "value": ["other"]},
        {"op": "remove", "path": "/k"},
        {"op": "remove", "path": "/k"},
    ]);
    site.patch(&id, &operations).expect(409);
    assert_eq!(site.show(&id), before);
    site.patch(&id, &json!([])).expect(200);
    assert_eq!(site.show(&id), before, "nothing was written");
}

#[test]
fn each_operation_sees_those_before_it() {
    let site = Site::start();
    let id = site.create(json!({}));
    let answer = site.patch(
        &id,
        &json!([
            {"op": ADD, "path": "/k", "value": "1"},
            {"op": REPLACE, "path": "/k", "value": "2"},
            {"op": ADD, "path": "/a~1b~0c", "value": "3"},
            {"op": ADD, "path": "/gone", "value": "4"},
            {"op": "remove", "path": "/gone"},
            {"op": REPLACE, "path": "/tags", "value": ["x"]},
            {"op": ADD, "path": "/tags", "value": ["y", "z"]},
            {"op": REPLACE, "path": "/disk_format", "value": "qcow2"},
        ]),
    );
    let image = answer.expect(200).json();
    assert_eq!(image["k"], "2");
    assert_eq!(image["a/b~c"], "3");
    assert_eq!(image.get("gone"), None);
    assert_eq!(image["tags"], json!(["y", "z"]));
    assert_eq!(image["disk_format"], "qcow2");
    assert_eq!(site.show(&id), image);
}

#[test]
fn values_that_are_not_allowed() {
    let site = Site::start();
    let id = site.create(json!({"k": "v"}));
    let before = site.show(&id);
    for (path, value, status) in [
        ("/visibility", json!("z"), 400),
        ("/protected", json!("true"), 400),
        ("/min_ram", json!(-1), 400),
        ("/min_ram", json!("1"), 400),
        ("/min_disk", json!(2_147_483_648_u64), 400),
        ("/name", json!("x".repeat(256)), 400),
        ("/name", json!("😀"), 400),
        ("/tags", Value::Null, 400),
        ("/tags", json!(["t".repeat(256)]), 400),
        ("/disk_format", json!("exe"), 400),
        ("/k", json!(1), 400),
        ("/k", Value::Null, 400),
        ("/nope", json!("v"), 409),
        ("/tags/-", json!("v"), 400),
        ("/a/b", json!("v"), 400),
        ("k", json!("v"), 400),
        ("/a~2", json!("v"), 400),
        ("/", json!("v"), 400),
    ] {
        let operation = json!({"op": REPLACE, "path": path, "value": value});
        let answer = site.patch(&id, &json!([operation]));
        assert_eq!(answer.status, status, "{path} {value}: {}", answer.text());
    }
    assert_eq!(site.show(&id), before);
}

#[test]
fn media_types() {
    let site = Site::start();
    let id = site.create(json!({}));
    let patch = |kind: &str, body: Value| {
        let request = site.request("PATCH", &format!("/v2/images/{id}"));
        request.header("Content-Type", kind).json(&body).send()
    };
    let v20 = "application/openstack-images-v2.0-json-patch";
    let v21 = "application/openstack-images-v2.1-json-patch";
    patch(v20, json!([{"add": "/k", "value": "1"}])).expect(200);
    patch(v20, json!([{"add": "/k", "value": "2"}])).expect(409);
    patch(v21, json!([{"op": "add", "path": "/k", "value": "3"}])).expect(200);
    patch(v21, json!([{"add": "/k", "value": "4"}])).expect(400);
    patch(v20, json!([{"op": "add", "path": "/k", "value": "5"}])).expect(400);
    for kind in ["application/json", "application/json-patch+json", "x"] {
        let answer = patch(kind, json!([])).expect(415);
        let accepted = answer.header("accept-patch").unwrap();
        assert!(accepted.contains(v20) && accepted.contains(v21));
    }
    assert_eq!(site.show(&id)["k"], "3");
}

#[test]
fn the_time_of_an_update_moves_only_with_one() {
    let site = Site::start();
    let id = site.image(b"bytes");
    let before = site.show(&id)["updated_at"].clone();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    site.download(&id);
    site.patch(&id, &json!([])).expect(200);
    assert_eq!(site.show(&id)["updated_at"], before);
    site.patch(&id, &json!([{"op": ADD, "path": "/k", "value": "v"}]))
        .expect(200);
    assert_ne!(site.show(&id)["updated_at"], before);
}
