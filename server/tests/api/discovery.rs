//! Do clients that look around find what is there, and only that?

use serde_json::json;

use crate::http::Connection;
use crate::site::Site;

#[test]
fn versions() {
    let site = Site::start();
    for (path, status) in [
        ("/", 300),
        ("/versions", 200),
        ("/versions/", 200),
        ("/v1/images", 300),
        ("/v3/images", 300),
    ] {
        let answer = site.get(path).expect(status);
        let document = answer.json();
        let versions = document["versions"].as_array().unwrap();
        let current: Vec<_> = versions
            .iter()
            .filter(|v| v["status"] == "CURRENT")
            .collect();
        assert_eq!(current, [&versions[0]]);
        let href = format!("http://{}/v2/", site.api);
        for version in versions {
            assert_eq!(version["links"][0]["href"], href);
            // Every version that is named answers.
            let id = version["id"].as_str().unwrap();
            site.get(&format!("/{id}/images")).expect(200);
        }
    }
    site.get("/v2.99/images").expect(300);
    site.get("/healthcheck").expect(200);
    let by_type = site
        .request("GET", "/images")
        .header("Accept", "application/vnd.openstack.images-v2.7");
    by_type.send().expect(200);
}

#[test]
fn behind_a_proxy() {
    let site = Site::start();
    let answer = site
        .request("GET", "/versions")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "images.example")
        .send();
    let href = answer.json()["versions"][0]["links"][0]["href"].clone();
    assert_eq!(href, "https://images.example/v2/");
}

#[test]
fn paths_and_methods_that_are_not_there() {
    let site = Site::start();
    let id = site.create(json!({}));
    for path in [
        "/v2/",
        "/v2/images/",
        "/v2/nonesuch",
        "/v2/schemas/nonesuch",
        "/v2/images/foo",
        "/v2/images/%00",
        "/v2/images/..%2f..%2fetc",
        "/v2/info/nonesuch",
        "/v2/stores",
        "/v2/tasks/12345678-1234-1234-1234-123456789abc",
    ] {
        let answer = site.get(path).expect(404);
        let request = answer.header("x-openstack-request-id").unwrap();
        assert!(request.starts_with("req-"), "{request}");
    }
    let image = format!("/v2/images/{id}");
    for (method, path, allowed) in [
        ("PUT", "/v2/images", "GET, POST"),
        ("DELETE", "/v2/images", "GET, POST"),
        ("PUT", image.as_str(), "GET, PATCH, DELETE"),
        ("HEAD", image.as_str(), "GET, PATCH, DELETE"),
        ("POST", &format!("{image}/file"), "GET, HEAD, PUT"),
        ("POST", "/v2/schemas/image", "GET"),
    ] {
        // An answer to HEAD has a length and no body.
        let mut connection = Connection::open(site.api);
        connection
            .send(format!("{method} {path} HTTP/1.1\r\nHost: site\r\n\r\n"))
            .unwrap();
        let answer = connection.head().unwrap().expect(405);
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
    site.request("GET", &image).bytes("{}").send().expect(400);
}

#[test]
fn metadata_definitions_can_be_read() {
    let site = Site::start();
    let list = site
        .get("/v2/metadefs/namespaces?limit=1")
        .expect(200)
        .json();
    assert_eq!(list["namespaces"], json!([]));
    assert_eq!(list["first"], "/v2/metadefs/namespaces?limit=1");
    site.get("/v2/metadefs/resource_types").expect(200);
    site.get("/v2/metadefs/namespaces/nonesuch").expect(404);
    for name in [
        "namespace",
        "namespaces",
        "object",
        "objects",
        "property",
        "properties",
        "resource_type",
        "resource_types",
        "tag",
        "tags",
    ] {
        let schema = site.get(&format!("/v2/schemas/metadefs/{name}"));
        assert!(
            schema.expect(200).json()["properties"].is_object(),
            "{name}"
        );
    }
    site.get("/v2/schemas/metadefs/nonesuch").expect(404);
    let new = site.request("POST", "/v2/metadefs/namespaces");
    let new = new.json(&json!({"namespace": "x"})).send().expect(201);
    assert_eq!(new.json()["visibility"], "private");
    site.get("/v2/metadefs/namespaces/x").expect(200);
}

#[test]
fn a_namespace_that_is_deleted_meanwhile_is_not_found() {
    let site = Site::start();
    let namespaces = "/v2/metadefs/namespaces";
    let new = site.request("POST", namespaces);
    new.json(&json!({"namespace": "x"})).send().expect(201);
    let body = r#"{"name": "o"}"#;
    let mut connection = Connection::open(site.api);
    let head = format!(
        "POST {namespaces}/x/objects HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    connection.send(head).unwrap();
    // The body is asked for once the namespace has been found.
    connection.head().unwrap().expect(100);
    let delete = site.request("DELETE", &format!("{namespaces}/x"));
    delete.send().expect(204);
    connection.send(body).unwrap();
    let answer = connection.answer().unwrap();
    let text = answer.expect(404).text();
    assert!(text.contains("namespace was not found"), "{text}");
}

#[test]
fn errors_speak_as_they_are_asked_to() {
    let site = Site::start();
    let get = |accept: &str| {
        let request = site.request("GET", "/v2/images/%3Cscript%3E");
        request.header("Accept", accept).send().expect(404)
    };
    let answer = get("application/json").json();
    assert_eq!(answer["code"], "404 Not Found");
    assert_eq!(answer["title"], "Not Found");
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("&lt;script&gt;")
    );
    let page = get("text/html").text();
    assert!(page.contains("<h1>404 Not Found</h1>") && page.contains("&lt;script&gt;"));
    assert!(!page.contains("<script>"));
    for empty in ["", " "] {
        let answer = get(empty);
        assert!(answer.text().starts_with("404 Not Found\n\n"));
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("text/plain")
        );
    }
}

#[test]
fn identities_that_clients_claim_are_not_believed() {
    let site = Site::start();
    let image = site
        .request("POST", "/v2/images")
        .header("X-Project-Id", "mallory")
        .header("X-Roles", "reader")
        .json(&json!({}))
        .send();
    assert_eq!(image.expect(201).json()["owner"], json!(null));
}
