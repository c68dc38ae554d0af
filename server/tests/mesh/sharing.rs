//! Do sites share one catalogue, and does a partition end well?

use serde_json::json;

use crate::mesh::{Mesh, up_sites, wait, wait_for_image};
use crate::site::noise;

#[test]
fn every_change_reaches_every_site() {
    let mesh = Mesh::start(&["paris", "lyon", "nice"]);
    let [a, b, c] = &mesh.sites[..] else {
        panic!("three sites")
    };
    let id = a.create(json!({"name": "first", "os_distro": "debian"}));
    wait("the image is listed", || {
        c.get(&format!("/v2/images/{id}")).status == 200
    });
    assert_eq!(c.show(&id)["os_distro"], "debian");

    b.patch(
        &id,
        &json!([{"op": "replace", "path": "/name", "value": "second"}]),
    )
    .expect(200);
    a.patch(&id, &json!([{"op": "add", "path": "/note", "value": "x"}]))
        .expect(200);
    for site in &mesh.sites {
        wait("both changes are there", || {
            let image = site.show(&id);
            image["name"] == "second" && image["note"] == "x"
        });
    }

    c.delete(&id).expect(204);
    for site in &mesh.sites {
        wait("the image is gone", || {
            site.get(&format!("/v2/images/{id}")).status == 404
        });
    }
    // The id is never used again, anywhere.
    let again = a
        .request("POST", "/v2/images")
        .json(&json!({"id": id}))
        .send();
    assert_eq!(again.status, 409);
}

#[test]
fn an_unknown_id_is_asked_of_near_sites() {
    let mut mesh = Mesh::start(&["paris", "lyon"]);
    let id = mesh.sites[0].image(&noise(1, 100_000));
    mesh.join("nice");
    let nice = &mesh.sites[2];
    wait("it has a neighbour", || up_sites(nice) >= 2);
    // Whether gossip was faster or the question: the answer is there at once.
    assert_eq!(nice.download(&id), noise(1, 100_000));
    assert_eq!(
        nice.get("/v2/images/12345678-1234-1234-1234-123456789abc")
            .status,
        404
    );
}

#[test]
fn writes_on_both_sides_of_a_partition_come_together() {
    let mut mesh = Mesh::start(&["paris", "lyon"]);
    let kept = mesh.sites[0].create(json!({"name": "kept"}));
    let gone = mesh.sites[0].create(json!({"name": "gone"}));
    wait("both are at the other site", || {
        mesh.sites[1].get("/v2/images").expect(200).json()["images"]
            .as_array()
            .unwrap()
            .len()
            == 2
    });
    // Stopped, a site sees nothing of what the other does.
    mesh.sites[1].stop();
    mesh.sites[0].delete(&gone).expect(204);
    let new = mesh.sites[0].image(&noise(2, 50_000));
    mesh.sites[0]
        .patch(
            &kept,
            &json!([{"op": "add", "path": "/side", "value": "paris"}]),
        )
        .expect(200);
    mesh.sites[1].restart(|_| {});
    let lyon = &mesh.sites[1];
    wait_for_image(lyon, &new);
    wait("the deletion came", || {
        lyon.get(&format!("/v2/images/{gone}")).status == 404
    });
    wait("the change came", || lyon.show(&kept)["side"] == "paris");
    assert_eq!(mesh.sites[0].get(&format!("/v2/images/{gone}")).status, 404);
}
