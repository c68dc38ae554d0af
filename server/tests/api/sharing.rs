//! Who sees whose images, and what can members do?

use serde_json::{Value, json};

use crate::http::Answer;
use crate::keystone::Keystone;
use crate::site::{Client, Site};

struct Cloud {
    _keystone: Keystone,
    site: Site,
}

impl Cloud {
    fn start() -> Self {
        let keystone = Keystone::start();
        let site = Site::with(|config| keystone.configure(config));
        Self {
            _keystone: keystone,
            site,
        }
    }

    fn as_(&self, token: &'static str) -> Client {
        self.site.with_token(token)
    }

    fn names(&self, token: &'static str, query: &str) -> Vec<String> {
        let answer = self.as_(token).get(&format!("/v2/images{query}"));
        let mut names: Vec<String> = answer.expect(200).json()["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|image| image["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    fn image(&self, visibility: &str) -> String {
        let token = if visibility == "public" {
            "admin"
        } else {
            "demo"
        };
        let id = self.as_(token).create(json!({
            "name": visibility, "visibility": visibility, "owner": "p-demo",
        }));
        self.as_("demo")
            .upload(&id, b"content".to_vec())
            .send()
            .expect(204);
        id
    }
}

fn invite(owner: &Client, id: &str, project: &str) -> Answer {
    let request = owner.request("POST", &format!("/v2/images/{id}/members"));
    request.json(&json!({"member": project})).send()
}

fn decide(member: &Client, id: &str, project: &str, status: &str) -> Answer {
    let request = member.request("PUT", &format!("/v2/images/{id}/members/{project}"));
    request.json(&json!({"status": status})).send()
}

fn show(client: &Client, id: &str) -> u16 {
    client.get(&format!("/v2/images/{id}")).status
}

fn download(client: &Client, id: &str) -> u16 {
    client.get(&format!("/v2/images/{id}/file")).status
}

#[test]
fn visibility_decides_who_sees_an_image() {
    let cloud = Cloud::start();
    for visibility in ["private", "shared", "community", "public"] {
        let id = cloud.image(visibility);
        let open = matches!(visibility, "community" | "public");
        let seen = |token| {
            (
                show(&cloud.as_(token), &id),
                download(&cloud.as_(token), &id),
            )
        };
        assert_eq!(seen("demo"), (200, 200), "{visibility}");
        assert_eq!(seen("admin"), (200, 200), "{visibility}");
        assert_eq!(seen("reader"), (200, 403), "{visibility}");
        let others = if open { (200, 200) } else { (404, 404) };
        assert_eq!(seen("alt"), others, "{visibility}");
        let readers = if open { (200, 403) } else { (404, 404) };
        assert_eq!(seen("alt-reader"), readers, "{visibility}");
        assert_eq!(seen("guest"), (404, 404), "{visibility}");
    }
    let all = ["community", "private", "public", "shared"];
    assert_eq!(cloud.names("demo", ""), all);
    assert_eq!(cloud.names("reader", ""), all);
    assert_eq!(cloud.names("alt", ""), ["public"]);
    assert_eq!(cloud.names("alt", "?visibility=community"), ["community"]);
    assert_eq!(
        cloud.names("alt", "?visibility=all"),
        ["community", "public"]
    );
    assert_eq!(cloud.names("alt", "?visibility=private"), [""; 0]);
    assert_eq!(cloud.names("admin", ""), ["private", "public", "shared"]);
    assert_eq!(cloud.names("admin", "?visibility=all"), all);
    cloud.as_("guest").get("/v2/images").expect(403);
}

#[test]
fn a_marker_tells_nothing_of_others_images() {
    let cloud = Cloud::start();
    let id = cloud.image("private");
    let path = format!("/v2/images?marker={id}");
    cloud.as_("demo").get(&path).expect(200);
    cloud.as_("alt").get(&path).expect(400);
}

#[test]
fn a_member_decides_and_the_owner_ends_it() {
    let cloud = Cloud::start();
    let (demo, alt) = (cloud.as_("demo"), cloud.as_("alt"));
    let id = cloud.image("shared");
    let member = invite(&demo, &id, "p-alt").expect(200).json();
    assert_eq!(member["status"], "pending");
    assert_eq!(member["member_id"], "p-alt");
    assert_eq!(member["image_id"], id.as_str());
    assert_eq!(member["schema"], "/v2/schemas/member");
    assert_eq!((show(&alt, &id), download(&alt, &id)), (200, 200));
    assert_eq!(cloud.names("alt", ""), [""; 0]);
    assert_eq!(cloud.names("alt", "?member_status=pending"), ["shared"]);
    assert_eq!(cloud.names("alt", "?member_status=all"), ["shared"]);

    decide(&demo, &id, "p-alt", "accepted").expect(403);
    decide(&cloud.as_("alt-reader"), &id, "p-alt", "accepted").expect(403);
    decide(&alt, &id, "p-alt", "perhaps").expect(400);
    let member = decide(&alt, &id, "p-alt", "accepted").expect(200).json();
    assert_eq!(member["status"], "accepted");
    assert_eq!(cloud.names("alt", ""), ["shared"]);
    assert_eq!(cloud.names("alt", "?visibility=shared"), ["shared"]);
    decide(&alt, &id, "p-alt", "rejected").expect(200);
    assert_eq!(cloud.names("alt", ""), [""; 0]);
    assert_eq!(show(&alt, &id), 200);

    let membership = format!("/v2/images/{id}/members/p-alt");
    alt.request("DELETE", &membership).send().expect(403);
    demo.request("DELETE", &membership).send().expect(204);
    assert_eq!((show(&alt, &id), download(&alt, &id)), (404, 404));
    demo.request("DELETE", &membership).send().expect(404);
    // A new membership begins anew.
    assert_eq!(
        invite(&demo, &id, "p-alt").expect(200).json()["status"],
        "pending"
    );
}

#[test]
fn a_member_may_use_and_not_change() {
    let cloud = Cloud::start();
    let (demo, alt) = (cloud.as_("demo"), cloud.as_("alt"));
    let id = cloud.image("shared");
    invite(&demo, &id, "p-alt").expect(200);
    let rename = json!([{"op": "replace", "path": "/name", "value": "mine"}]);
    alt.patch(&id, &rename).expect(403);
    alt.delete(&id).expect(403);
    alt.request("PUT", &format!("/v2/images/{id}/tags/x"))
        .send()
        .expect(403);
    alt.request("POST", &format!("/v2/images/{id}/actions/deactivate"))
        .send()
        .expect(403);
    invite(&alt, &id, "p-third").expect(403);
    assert_eq!(demo.show(&id)["name"], "shared");
}

#[test]
fn members_see_their_own_membership_only() {
    let cloud = Cloud::start();
    let (demo, alt) = (cloud.as_("demo"), cloud.as_("alt"));
    let id = cloud.image("shared");
    invite(&demo, &id, "p-alt").expect(200);
    invite(&demo, &id, "p-third").expect(200);
    let members = |client: &Client| -> Vec<Value> {
        let answer = client
            .get(&format!("/v2/images/{id}/members"))
            .expect(200)
            .json();
        let members = answer["members"].as_array().unwrap();
        members
            .iter()
            .map(|member| member["member_id"].clone())
            .collect()
    };
    assert_eq!(members(&demo), ["p-alt", "p-third"]);
    assert_eq!(members(&cloud.as_("reader")), ["p-alt", "p-third"]);
    assert_eq!(members(&alt), ["p-alt"]);
    alt.get(&format!("/v2/images/{id}/members/p-third"))
        .expect(404);
    decide(&alt, &id, "p-third", "accepted").expect(404);
}

#[test]
fn only_shared_images_have_members() {
    let cloud = Cloud::start();
    let demo = cloud.as_("demo");
    for visibility in ["private", "community", "public"] {
        let id = cloud.image(visibility);
        demo.get(&format!("/v2/images/{id}/members")).expect(403);
        invite(&demo, &id, "p-alt").expect(403);
    }
    // Nor do memberships count while the image is private; they are not lost.
    let id = cloud.image("shared");
    invite(&demo, &id, "p-alt").expect(200);
    let to = |v| json!([{"op": "replace", "path": "/visibility", "value": v}]);
    demo.patch(&id, &to("private")).expect(200);
    assert_eq!(show(&cloud.as_("alt"), &id), 404);
    demo.patch(&id, &to("shared")).expect(200);
    assert_eq!(show(&cloud.as_("alt"), &id), 200);
}

#[test]
fn invitations_have_a_form_and_a_limit() {
    let cloud = Cloud::start();
    let demo = cloud.as_("demo");
    let id = cloud.image("shared");
    let path = format!("/v2/images/{id}/members");
    for body in [
        json!({}),
        json!({"member": ""}),
        json!({"member": 7}),
        json!([]),
        json!({"member": "x".repeat(256)}),
    ] {
        demo.request("POST", &path).json(&body).send().expect(400);
    }
    invite(&demo, &id, "p-alt").expect(200);
    invite(&demo, &id, "p-alt").expect(409);
    for n in 1..128 {
        invite(&demo, &id, &format!("p-{n}")).expect(200);
    }
    invite(&demo, &id, "p-128").expect(413);
    demo.request("PATCH", &format!("{path}/p-alt"))
        .json(&json!({}))
        .send()
        .expect(405);
    invite(&cloud.as_("reader"), &id, "p-new").expect(403);
    invite(&cloud.as_("alt-reader"), &id, "p-new").expect(403);
    invite(&cloud.as_("guest"), &id, "p-new").expect(404);
}

#[test]
fn only_administrators_publish_and_give_away() {
    let cloud = Cloud::start();
    let (demo, admin) = (cloud.as_("demo"), cloud.as_("admin"));
    let create = |client: &Client, body: Value| {
        client
            .request("POST", "/v2/images")
            .json(&body)
            .send()
            .status
    };
    assert_eq!(create(&demo, json!({"visibility": "public"})), 403);
    assert_eq!(create(&demo, json!({"owner": "p-alt"})), 403);
    assert_eq!(create(&demo, json!({"owner": null})), 403);
    assert_eq!(
        create(&demo, json!({"owner": "p-demo", "visibility": "community"})),
        201
    );
    assert_eq!(create(&cloud.as_("reader"), json!({})), 403);
    assert_eq!(
        create(&admin, json!({"owner": "p-alt", "visibility": "public"})),
        201
    );
    let id = demo.create(json!({}));
    assert_eq!(demo.show(&id)["owner"], "p-demo");
    let replace = |path, value| json!([{"op": "replace", "path": path, "value": value}]);
    demo.patch(&id, &replace("/visibility", "public"))
        .expect(403);
    demo.patch(&id, &replace("/owner", "p-alt")).expect(403);
    demo.patch(&id, &replace("/visibility", "community"))
        .expect(200);
    admin.patch(&id, &replace("/owner", "p-alt")).expect(200);
    // It is another project's now.
    demo.patch(&id, &replace("/name", "x")).expect(403);
    cloud
        .as_("alt")
        .patch(&id, &replace("/name", "x"))
        .expect(200);
}

#[test]
fn protected_and_deactivated_images() {
    let cloud = Cloud::start();
    let (demo, admin) = (cloud.as_("demo"), cloud.as_("admin"));
    let id = cloud.image("shared");
    demo.request("POST", &format!("/v2/images/{id}/actions/deactivate"))
        .send()
        .expect(204);
    assert_eq!(download(&demo, &id), 403);
    assert_eq!(download(&admin, &id), 200);
    demo.request("POST", &format!("/v2/images/{id}/actions/reactivate"))
        .send()
        .expect(204);
    assert_eq!(download(&demo, &id), 200);
    let protect = |value: bool| json!([{"op": "replace", "path": "/protected", "value": value}]);
    demo.patch(&id, &protect(true)).expect(200);
    demo.delete(&id).expect(403);
    admin.delete(&id).expect(403);
    demo.patch(&id, &protect(false)).expect(200);
    cloud.as_("reader").delete(&id).expect(403);
    cloud.as_("alt").delete(&id).expect(404);
    demo.delete(&id).expect(204);
    admin.get(&format!("/v2/images/{id}")).expect(404);
}
