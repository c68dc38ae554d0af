//! Is what was read here the cache, and does it come and go as the API says?

use serde_json::Value;

use crate::http::Answer;
use crate::mesh::{Mesh, receipts, wait, wait_for_image};
use crate::site::{Client, noise};
use crate::stores::wait_for_stores;

const MB: usize = 1_000_000;

fn cache(client: &Client) -> Value {
    client.get("/v2/cache").expect(200).json()
}

fn change(client: &Client, method: &str, id: &str) -> Answer {
    client.request(method, &format!("/v2/cache/{id}")).send()
}

#[test]
fn reads_fill_the_cache_and_it_is_emptied() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let [paris, lyon] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let image = noise(80, 2 * MB);
    let id = paris.image(&image);
    // An upload is none of the cache's.
    assert_eq!(cache(paris)["cached_images"], serde_json::json!([]));
    change(paris, "DELETE", &id).expect(404);
    wait_for_image(lyon, &id);
    assert!(lyon.download(&id) == image);
    wait_for_stores(lyon, &id, "lyon,paris");
    wait("there is a receipt", || receipts(lyon, &id).len() == 1);
    let listed = cache(lyon);
    let copy = &listed["cached_images"][0];
    assert_eq!(copy["image_id"], id, "{listed}");
    assert_eq!(copy["size"], image.len(), "{listed}");
    assert_eq!(copy["hits"], 1, "{listed}");
    assert_eq!(copy["checksum"], lyon.show(&id)["checksum"], "{listed}");
    assert!(copy["last_modified"].as_f64().unwrap() > 1.7e9, "{listed}");
    let nodes = lyon
        .get(&format!("/v2/cache/nodes/{id}"))
        .expect(200)
        .json();
    assert_eq!(nodes, serde_json::json!(["lyon", "paris"]));

    change(lyon, "DELETE", &id).expect(204);
    wait_for_stores(paris, &id, "paris");
    assert_eq!(cache(lyon)["cached_images"], serde_json::json!([]));
    change(lyon, "DELETE", &id).expect(404);

    // Fetched ahead, and cleared with the rest.
    change(lyon, "PUT", &id).expect(202);
    wait_for_stores(lyon, &id, "lyon,paris");
    wait("nothing is queued", || {
        cache(lyon)["queued_images"] == serde_json::json!([])
    });
    assert_eq!(cache(lyon)["cached_images"][0]["image_id"], id);
    lyon.request("DELETE", "/v2/cache").send().expect(204);
    wait_for_stores(paris, &id, "paris");
    // The only copy stays.
    paris.request("DELETE", "/v2/cache").send().expect(204);
    assert!(paris.download(&id) == image);
}

#[test]
fn what_cannot_be_fetched_now_waits() {
    let mut mesh = Mesh::start(&["paris", "lyon"]);
    let image = noise(81, MB);
    let id = mesh.sites[0].image(&image);
    wait_for_image(&mesh.sites[1], &id);
    mesh.sites[0].stop();
    let lyon = &mesh.sites[1];
    change(lyon, "PUT", &id).expect(202);
    assert_eq!(cache(lyon)["queued_images"], serde_json::json!([id]));
    let clear = lyon.request("DELETE", "/v2/cache");
    clear
        .header("x-image-cache-clear-target", "queue")
        .send()
        .expect(204);
    assert_eq!(cache(lyon)["queued_images"], serde_json::json!([]));
}

#[test]
fn what_is_refused() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let paris = &mesh.sites[0];
    let queued = paris.create(serde_json::json!({}));
    change(paris, "PUT", &queued).expect(400);
    let unknown = "12345678-1234-1234-1234-123456789abc";
    change(paris, "PUT", unknown).expect(404);
    change(paris, "DELETE", unknown).expect(404);
    let bad = paris.request("DELETE", "/v2/cache");
    bad.header("x-image-cache-clear-target", "x")
        .send()
        .expect(400);
    paris.request("POST", "/v2/cache/clean").send().expect(200);
    let pruned = paris.request("POST", "/v2/cache/prune").send().expect(200);
    assert_eq!(pruned.json()["total_files_pruned"], 0);
}
