//! Is what one site allows allowed at another, and what it refuses refused?

use serde_json::json;

use crate::keystone::Keystone;
use crate::mesh::{Mesh, wait};
use crate::site::{Client, noise};

fn show(client: &Client, id: &str) -> u16 {
    client.get(&format!("/v2/images/{id}")).status
}

fn is(client: &Client, id: &str, status: &str) -> bool {
    let answer = client.get(&format!("/v2/images/{id}"));
    answer.status == 200 && answer.json()["status"] == status
}

fn download(client: &Client, id: &str) -> u16 {
    client.get(&format!("/v2/images/{id}/file")).status
}

fn cloud() -> (Keystone, Mesh) {
    let keystone = Keystone::start();
    let mesh = Mesh::start_with(&["paris", "lyon"], |config| keystone.configure(config));
    (keystone, mesh)
}

#[test]
fn sharing_reaches_every_site() {
    let (_keystone, mesh) = cloud();
    let [paris, lyon] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let (owner, member) = (paris.with_token("demo"), lyon.with_token("alt"));
    let bytes = noise(1, 300_000);
    let id = owner.image(&bytes);
    let here = lyon.with_token("demo");
    wait("the owner sees it at both", || is(&here, &id, "active"));
    // It is known there, and not to everybody.
    assert_eq!((show(&member, &id), download(&member, &id)), (404, 404));

    let members = format!("/v2/images/{id}/members");
    let invite = owner
        .request("POST", &members)
        .json(&json!({"member": "p-alt"}));
    invite.send().expect(200);
    wait("the member sees it", || show(&member, &id) == 200);
    let membership = format!("{members}/p-alt");
    let accept = member.request("PUT", &membership);
    accept
        .json(&json!({"status": "accepted"}))
        .send()
        .expect(200);
    assert_eq!(member.download(&id), bytes);
    wait("the owner hears of it", || {
        owner.get(&membership).expect(200).json()["status"] == "accepted"
    });

    owner.request("DELETE", &membership).send().expect(204);
    wait("it is over", || show(&member, &id) == 404);
    // Whoever has the bytes now.
    assert_eq!(download(&member, &id), 404);
    assert_eq!(here.download(&id), bytes);
}

#[test]
fn deactivated_here_is_refused_there() {
    let (_keystone, mesh) = cloud();
    let [paris, lyon] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let (owner, there) = (paris.with_token("demo"), lyon.with_token("demo"));
    let bytes = noise(2, 300_000);
    let id = owner.image(&bytes);
    wait("it is known", || is(&there, &id, "active"));
    assert_eq!(there.download(&id), bytes);
    let act = |action| {
        let path = format!("/v2/images/{id}/actions/{action}");
        owner.request("POST", &path).send().expect(204);
    };
    act("deactivate");
    wait("it is deactivated", || is(&there, &id, "deactivated"));
    assert_eq!(download(&there, &id), 403);
    assert_eq!(lyon.with_token("admin").download(&id), bytes);
    act("reactivate");
    wait("it is active", || is(&there, &id, "active"));
    assert_eq!(there.download(&id), bytes);
}
