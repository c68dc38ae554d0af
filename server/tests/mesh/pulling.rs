//! Does an image come out at any site, with only what is missing crossing between them, once?

use serde_json::{Value, json};

use crate::mesh::{Mesh, receipts, received, wait, wait_for_image, wire_bytes};
use crate::site::{Client, noise};

const MB: usize = 1_000_000;

/// Drives sites to hold images; the result.
fn preseed(client: &Client, id: &str, sites: &[&str]) -> Value {
    let body = json!({"images": [id], "sites": sites}).to_string();
    let answer = client
        .operator("POST", "/v1/preseed")
        .bytes(body)
        .send()
        .expect(200);
    let text = answer.text();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    last["result"].clone()
}

#[test]
fn an_image_pushed_at_one_site_is_pulled_at_another() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let [a, b] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let mut image = noise(3, 6 * MB);
    image.extend(vec![0; 10 * MB]);
    image.extend(noise(4, MB));
    let id = a.image(&image);
    wait_for_image(b, &id);
    assert!(b.download(&id) == image);
    wait("there is a receipt", || receipts(b, &id).len() == 1);
    let receipt = &receipts(b, &id)[0];
    assert_eq!(receipt["outcome"], "complete", "{receipt}");
    assert_eq!(receipt["image_bytes"], image.len(), "{receipt}");
    assert!(
        receipt["hole_bytes"].as_u64().unwrap() >= 9 * MB as u64,
        "{receipt}"
    );
    let path = &receipt["peers"]["paris"]["path"];
    let count = |name: &str| path[name].as_u64().unwrap();
    assert!(count("packets_sent") > 7_000_000 / 1500, "{receipt}");
    assert!(count("packets_lost") <= count("packets_sent"), "{receipt}");
    assert!(
        count("bytes_sent_twice") <= 1500 * count("packets_lost"),
        "{receipt}"
    );
    let (rtt, least) = (path["rtt_ms"].as_f64(), path["rtt_min_ms"].as_f64());
    assert!(rtt.unwrap() > 0.0 && least.unwrap() > 0.0, "{receipt}");
    let wire = wire_bytes(b, &id);
    assert!(wire < 7_300_000, "{wire} bytes for 7 MB of noise");

    // The next version: only what is new crosses.
    image.splice(2 * MB..2 * MB, noise(5, 1000));
    let next = a.image(&image);
    wait_for_image(b, &next);
    assert!(b.download(&next) == image);
    wait("there is a receipt", || receipts(b, &next).len() == 1);
    let wire = wire_bytes(b, &next);
    assert!(wire < MB as u64, "{wire} bytes for an insertion of 1 kB");

    // A second pull costs nothing.
    assert!(
        b.download(&id)
            == image[..2 * MB]
                .iter()
                .chain(&image[2 * MB + 1000..])
                .copied()
                .collect::<Vec<_>>()
    );
    assert_eq!(receipts(b, &id).len(), 1);
}

#[test]
fn a_range_is_fetched_without_the_rest() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let [a, b] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let image = noise(6, 40 * MB);
    let id = a.image(&image);
    wait_for_image(b, &id);
    let answer = b
        .request("GET", &format!("/v2/images/{id}/file"))
        .header("Range", "bytes=30000000-30099999")
        .send()
        .expect(206);
    assert!(answer.body == image[30 * MB..30 * MB + 100_000]);
    let received = received(b, "paris");
    assert!(received < 25e6, "{received} bytes for a range of 100 kB");
}

#[test]
fn many_clients_cost_one_pull() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let [a, b] = &mesh.sites[..] else {
        panic!("two sites")
    };
    let image = noise(7, 2 * MB);
    let id = a.image(&image);
    wait_for_image(b, &id);
    // Their manifests alone would be a twentieth of the image.
    std::thread::scope(|scope| {
        for _ in 0..80 {
            scope.spawn(|| assert!(b.download(&id) == image));
        }
    });
    wait("the pull has ended", || !receipts(b, &id).is_empty());
    let received = received(b, "paris");
    assert!(received <= 1.03 * image.len() as f64, "{received} bytes");
}

#[test]
fn a_preseeded_site_stands_alone() {
    let mut mesh = Mesh::start(&["paris", "lyon", "nice"]);
    let image = noise(8, 5 * MB);
    let id = mesh.sites[0].image(&image);
    let result = preseed(&mesh.sites[0], &id, &["lyon", "nice"]);
    assert_eq!(result["ok"], true, "{result}");
    // A site that has it already says how much that is.
    let again = preseed(&mesh.sites[0], &id, &["paris"]);
    assert_eq!(again["sites"][0]["done_bytes"], image.len(), "{again}");
    assert_eq!(again["sites"][0]["total_bytes"], image.len(), "{again}");
    mesh.sites[0].stop();
    // A restart shows that the bytes are durable.
    mesh.sites[1].restart(|_| {});
    assert!(mesh.sites[1].download(&id) == image);
    assert!(mesh.sites[2].download(&id) == image);
    assert_eq!(mesh.sites[1].verify()["ok"], true);
}

#[test]
fn a_preseed_of_what_is_not_there_says_so() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let a = &mesh.sites[0];
    let unknown = json!({"images": ["12345678-1234-1234-1234-123456789abc"], "all": true});
    let answer = a
        .operator("POST", "/v1/preseed")
        .bytes(unknown.to_string())
        .send();
    assert_eq!(answer.status, 404);
    let id = a.image(b"x");
    let nowhere = json!({"images": [id], "sites": ["atlantis"]});
    let answer = a
        .operator("POST", "/v1/preseed")
        .bytes(nowhere.to_string())
        .send();
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("atlantis"));
}

#[test]
fn a_puller_that_restarts_goes_on_where_it_was() {
    let mut mesh = Mesh::start(&["paris", "lyon"]);
    let image = noise(9, 30 * MB);
    let id = mesh.sites[0].image(&image);
    wait_for_image(&mesh.sites[1], &id);
    let part = mesh.sites[1]
        .request("GET", &format!("/v2/images/{id}/file"))
        .header("Range", "bytes=0-9999999")
        .send()
        .expect(206);
    assert!(part.body == image[..10 * MB]);
    mesh.sites[1].restart(|_| {});
    let lyon = &mesh.sites[1];
    assert!(lyon.download(&id) == image);
    wait("the pull has ended", || !receipts(lyon, &id).is_empty());
    let receipt = &receipts(lyon, &id)[0];
    assert!(
        receipt["local_bytes"].as_u64().unwrap() >= 10 * MB as u64,
        "{receipt}"
    );
    assert!(wire_bytes(lyon, &id) <= 21 * MB as u64, "{receipt}");
}

#[test]
fn without_a_holder_a_client_is_told_why() {
    let mut mesh = Mesh::start(&["paris", "lyon"]);
    let id = mesh.sites[0].image(&noise(10, MB));
    wait_for_image(&mesh.sites[1], &id);
    mesh.sites[0].stop();
    let answer = mesh.sites[1].get(&format!("/v2/images/{id}/file"));
    assert_eq!(answer.status, 503, "{}", answer.text());
}

#[test]
fn an_image_can_be_read_elsewhere_at_once() {
    let mesh = Mesh::start(&["paris", "lyon"]);
    let [a, b] = &mesh.sites[..] else {
        panic!("two sites")
    };
    // As often as it takes to come before the news now and then.
    for seed in 0..8 {
        let image = noise(20 + seed, 300_000);
        let id = a.image(&image);
        assert!(b.download(&id) == image, "image {seed}");
    }
}
