//! Are locations what an image's sites are, and URLs only where bytes come from?

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use crate::http::Answer;
use crate::site::{Client, Site, noise};
use crate::web::{Web, ok};

const PATIENCE: Duration = Duration::from_secs(60);

fn site() -> Site {
    Site::with(|config| {
        config.images.show_multiple_locations = true;
        config.images.show_direct_url = true;
        config.import.allow_private = true;
        config.import.allowed_ports.clear();
    })
}

fn add(client: &Client, id: &str, body: &Value) -> Answer {
    client
        .request("POST", &format!("/v2/images/{id}/locations"))
        .json(body)
        .send()
}

#[test]
fn bytes_are_taken_over_from_a_location() {
    let site = site();
    let bytes = noise(70, 1_000_000);
    let web = Web::serve([("/disk", ok(&bytes))]);
    let hash = hex::encode(Sha512::digest(&bytes));
    let with_hash = |hash: &str| json!({"url": web.url("/disk"), "validation_data": {"os_hash_algo": "sha512", "os_hash_value": hash}});
    let id = site.create(json!({}));
    assert_eq!(site.show(&id)["locations"], json!([]));
    add(&site, &id, &json!({})).expect(400);
    add(&site, &id, &json!({"url": "file:///etc/passwd"})).expect(400);
    add(&site, &id, &with_hash("00")).expect(400);
    // What has another hash is not taken.
    add(&site, &id, &with_hash(&"0".repeat(128))).expect(202);
    site.wait_for_status(&id, "queued", PATIENCE);
    let tasks = site
        .get(&format!("/v2/images/{id}/tasks"))
        .expect(200)
        .json();
    assert_eq!(tasks["tasks"][0]["type"], "location_import", "{tasks}");
    assert!(
        tasks["tasks"][0]["message"]
            .as_str()
            .unwrap()
            .contains("hash")
    );

    add(&site, &id, &with_hash(&hash)).expect(202);
    site.wait_for_status(&id, "active", PATIENCE);
    assert!(site.download(&id) == bytes);
    let locations =
        json!([{"url": format!("vitrail://local/{id}"), "metadata": {"store": "local"}}]);
    let told = site
        .get(&format!("/v2/images/{id}/locations"))
        .expect(200)
        .json();
    assert_eq!(told, locations);
    let shown = site.show(&id);
    assert_eq!(shown["locations"], locations);
    assert_eq!(shown["direct_url"], locations[0]["url"]);
    add(&site, &id, &with_hash(&hash)).expect(409);
}

#[test]
fn patches_of_locations() {
    let site = site();
    let bytes = noise(71, 300_000);
    let web = Web::serve([("/disk", ok(&bytes))]);
    let id = site.create(json!({}));
    let location = |url: &str| json!({"url": url, "metadata": {}});
    let add = |url: &str| json!([{"op": "add", "path": "/locations/-", "value": location(url)}]);
    site.patch(&id, &add("file:///etc/passwd")).expect(400);
    let empty = json!([{"op": "replace", "path": "/locations", "value": []}]);
    site.patch(&id, &empty).expect(403);
    let mixed = json!([
        {"op": "add", "path": "/locations/-", "value": location(&web.url("/disk"))},
        {"op": "replace", "path": "/name", "value": "x"},
    ]);
    site.patch(&id, &mixed).expect(400);
    site.patch(&id, &add(&web.url("/disk"))).expect(200);
    site.wait_for_status(&id, "active", PATIENCE);
    assert!(site.download(&id) == bytes);
    site.patch(&id, &add(&web.url("/disk"))).expect(409);
    let same =
        json!([{"op": "replace", "path": "/locations", "value": site.show(&id)["locations"]}]);
    site.patch(&id, &same).expect(200);
    let remove = |index| json!([{"op": "remove", "path": format!("/locations/{index}")}]);
    site.patch(&id, &remove(7)).expect(400);
    site.patch(&id, &remove(0)).expect(403);
    assert!(site.download(&id) == bytes);
}

#[test]
fn locations_are_off_unless_they_are_shown() {
    let site = Site::start();
    let id = site.image(b"bytes");
    let shown = site.show(&id);
    assert_eq!(shown.get("locations"), None);
    assert_eq!(shown.get("direct_url"), None);
    for path in ["/locations", "/locations/-", "/locations/0"] {
        let value = json!({"url": "http://images.example/x", "metadata": {}});
        let patch = json!([{"op": "add", "path": path, "value": value}]);
        site.patch(&id, &patch).expect(403);
    }
}
