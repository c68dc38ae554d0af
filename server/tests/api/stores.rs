//! Is a site on its own the one store that its clients see?

use serde_json::json;

use crate::site::Site;

#[test]
fn a_lone_site_is_the_only_store() {
    let site = Site::start();
    let stores = site.get("/v2/info/stores").expect(200).json();
    assert_eq!(
        stores,
        json!({"stores": [{"id": "local", "description": "Vitrail site", "default": "true"}]})
    );
    let detail = site.get("/v2/info/stores/detail").expect(200).json();
    assert_eq!(detail["stores"][0]["type"], "vitrail");
    assert_eq!(detail["stores"][0]["properties"]["up"], true);

    let id = site.create(json!({}));
    assert_eq!(site.show(&id).get("stores"), None);
    let queued = site.request("DELETE", &format!("/v2/stores/local/{id}"));
    queued.send().expect(409);
    site.upload(&id, b"bytes").send().expect(204);
    assert_eq!(site.show(&id)["stores"], "local");
    let last = site.request("DELETE", &format!("/v2/stores/local/{id}"));
    last.send().expect(403);
    let unknown = site.request("DELETE", &format!("/v2/stores/atlantis/{id}"));
    unknown.send().expect(409);
    assert_eq!(site.download(&id), b"bytes");
}

#[test]
fn images_are_told_where_they_can_go() {
    let site = Site::start();
    let created = site.request("POST", "/v2/images").json(&json!({})).send();
    assert_eq!(created.header("openstack-image-store-ids"), Some("local"));
    let methods = created.header("openstack-image-import-methods").unwrap();
    let told = site.get("/v2/info/import").expect(200).json();
    let listed = told["import-methods"]["value"].as_array().unwrap();
    let listed: Vec<&str> = listed.iter().map(|m| m.as_str().unwrap()).collect();
    assert_eq!(listed.join(","), methods);

    let id = site.create(json!({}));
    let upload = |store| {
        let request = site.upload(&id, b"bytes");
        request.header("x-image-meta-store", store).send()
    };
    upload("atlantis").expect(400);
    upload("local").expect(204);
}
