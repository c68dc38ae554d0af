//! Are sites stores that a plain client of the Image API fills and empties?

use serde_json::{Value, json};

use crate::http::Answer;
use crate::mesh::{Mesh, wait, wait_for_image};
use crate::site::{Client, noise};

const MB: usize = 1_000_000;

/// Asks for an import.
pub(crate) fn import(client: &Client, id: &str, body: &Value) -> Answer {
    client
        .request("POST", &format!("/v2/images/{id}/import"))
        .json(body)
        .send()
}

fn copy(client: &Client, id: &str, stores: &[&str]) -> Answer {
    let body = json!({"method": {"name": "copy-image"}, "stores": stores});
    import(client, id, &body)
}

fn evict(client: &Client, store: &str, id: &str) -> Answer {
    client
        .request("DELETE", &format!("/v2/stores/{store}/{id}"))
        .send()
}

/// Waits until a site knows that exactly these stores have the image.
#[track_caller]
pub(crate) fn wait_for_stores(client: &Client, id: &str, stores: &str) {
    wait("the stores have it", || {
        let image = client.show(id);
        image["stores"] == stores && image["os_glance_import_task"].is_null()
    });
}

#[test]
fn a_copy_is_a_preseed_and_a_deletion_an_eviction() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let [paris, lyon] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let stores = paris.get("/v2/info/stores").expect(200).json();
    let ids: Vec<_> = stores["stores"]
        .as_array()
        .unwrap()
        .iter()
        .map(|store| {
            (
                store["id"].as_str().unwrap(),
                store.get("default").is_some(),
            )
        })
        .collect();
    assert_eq!(ids, [("paris", true), ("lyon", false)]);

    let image = noise(50, 3 * MB);
    let id = paris.image(&image);
    // Known at once to the client that uploaded it.
    assert_eq!(paris.show(&id)["stores"], "paris");
    copy(paris, &id, &["atlantis"]).expect(409);
    copy(paris, &id, &["paris"]).expect(400);
    copy(paris, &id, &["lyon"]).expect(202);
    for site in [paris, lyon] {
        wait_for_stores(site, &id, "lyon,paris");
        let shown = site.show(&id);
        assert_eq!(shown["os_glance_importing_to_stores"], "", "{shown}");
        assert_eq!(shown["os_glance_failed_import"], "", "{shown}");
        let tasks = site
            .get(&format!("/v2/images/{id}/tasks"))
            .expect(200)
            .json();
        assert_eq!(tasks["tasks"][0]["status"], "success", "{tasks}");
        assert_eq!(tasks["tasks"][0]["type"], "api_image_import");
        assert_eq!(tasks["tasks"][0]["input"]["backend"], json!(["lyon"]));
    }
    // Nothing is left to do.
    copy(lyon, &id, &["lyon"]).expect(400);
    let everywhere = json!({"method": {"name": "copy-image"}, "all_stores": true});
    import(lyon, &id, &everywhere).expect(202);
    wait_for_stores(lyon, &id, "lyon,paris");

    // Asked of the other site.
    evict(paris, "lyon", &id).expect(204);
    for site in [paris, lyon] {
        wait_for_stores(site, &id, "paris");
    }
    evict(paris, "lyon", &id).expect(404);
    evict(paris, "paris", &id).expect(403);
    evict(lyon, "paris", &id).expect(403);
    assert!(lyon.collect()["dead_chunks"].as_u64().unwrap() > 0);
    assert_eq!(lyon.store()["manifests"], 0);
    // It comes again when it is read.
    assert!(lyon.download(&id) == image);
    wait_for_stores(paris, &id, "lyon,paris");
    assert_eq!(lyon.collect()["dead_chunks"], 0);
}

#[test]
fn the_last_copy_stays_whoever_evicts() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let [paris, lyon] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let image = noise(51, MB);
    let id = paris.image(&image);
    copy(paris, &id, &["lyon"]).expect(202);
    wait_for_stores(lyon, &id, "lyon,paris");
    wait_for_stores(paris, &id, "lyon,paris");
    let statuses = std::thread::scope(|scope| {
        let one = scope.spawn(|| evict(paris, "paris", &id).status);
        let other = scope.spawn(|| evict(lyon, "lyon", &id).status);
        [one.join().unwrap(), other.join().unwrap()]
    });
    assert!(statuses.contains(&403), "{statuses:?}");
    for site in [paris, lyon] {
        site.collect();
    }
    for site in [paris, lyon] {
        assert!(site.download(&id) == image);
    }
}

#[test]
fn a_site_that_is_away_holds_up_no_other() {
    let mut mesh = Mesh::start(&["paris", "lyon", "nice"]);
    let id = mesh.sites[0].image(&noise(52, MB));
    wait_for_image(&mesh.sites[1], &id);
    mesh.sites[2].stop();
    let paris = &mesh.sites[0];
    copy(paris, &id, &["lyon", "nice"]).expect(202);
    wait("one of two has it", || {
        let shown = paris.show(&id);
        shown["stores"] == "lyon,paris" && shown["os_glance_importing_to_stores"] == "nice"
    });
    assert_eq!(paris.status(&id), "active");
    let tasks = paris.get("/v2/tasks?status=processing").expect(200).json();
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 1, "{tasks}");
    // Another one has to wait.
    copy(paris, &id, &["nice"]).expect(409);
}

#[test]
fn an_upload_for_another_store_goes_there() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let [paris, lyon] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let id = paris.create(json!({}));
    let bytes = noise(53, MB);
    let upload = paris.upload(&id, bytes.clone());
    upload
        .header("x-image-meta-store", "lyon")
        .send()
        .expect(204);
    wait_for_stores(lyon, &id, "lyon,paris");
    assert!(lyon.download(&id) == bytes);
}

#[test]
fn staged_at_one_site_imported_at_another() {
    let mesh = Mesh::start(&["paris", "lyon", "nice"]);
    let [paris, lyon, nice] = &mesh.sites[..] else {
        panic!("three sites")
    };
    let bytes = noise(54, 2 * MB);
    let id = paris.create(json!({}));
    paris
        .request("PUT", &format!("/v2/images/{id}/stage"))
        .header("Content-Type", "application/octet-stream")
        .bytes(bytes.clone())
        .send()
        .expect(204);
    wait("the other site knows", || {
        let answer = lyon.get(&format!("/v2/images/{id}"));
        answer.status == 200
            && answer.json()["status"] == "uploading"
            && answer.json()["size"] == bytes.len()
    });
    let body = json!({"method": {"name": "glance-direct"}, "stores": ["lyon", "nice"]});
    import(lyon, &id, &body).expect(202);
    wait_for_stores(nice, &id, "lyon,nice,paris");
    assert!(nice.download(&id) == bytes);
    wait_for_stores(paris, &id, "lyon,nice,paris");
    let tasks = paris
        .get(&format!("/v2/images/{id}/tasks"))
        .expect(200)
        .json();
    assert_eq!(tasks["tasks"][0]["status"], "success", "{tasks}");
}
