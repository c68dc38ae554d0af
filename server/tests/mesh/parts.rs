//! Do sites that hold a part of an image serve it, and does the mesh know which part?

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use vitrail_chunkstore::frame::Encoder;
use vitrail_proto::chunk::VerifiedChunk;
use vitrail_proto::runs::Runs;
use vitrail_proto::wire::{FetchReply, FetchRequest};

use crate::liar::{Chunks, Liar, Said, honest};
use crate::mesh::{Mesh, damage, free_address, receipts, wait, wait_for_image};
use crate::site::{Client, Site, noise};

const MB: usize = 1_000_000;

/// What one site is told to hold of an image: all of it, a part, or nothing.
fn holding(client: &Client, site: &str, id: &str) -> Option<bool> {
    let answer = client.operator("GET", &format!("/v1/sites/{site}")).send();
    let site = (answer.status == 200).then(|| answer.json())?;
    let images = site["images"].as_array().unwrap();
    images.iter().find(|i| i["id"] == id)?["complete"].as_bool()
}

#[test]
fn sites_that_hold_parts_serve_them() {
    let mut mesh = Mesh::start(&["paris", "lyon", "nice"]);
    let image = noise(50, 40 * MB);
    let id = mesh.sites[0].image(&image);
    wait_for_image(&mesh.sites[1], &id);
    let part = mesh.sites[1]
        .request("GET", &format!("/v2/images/{id}/file"))
        .header("Range", "bytes=0-9999999")
        .send();
    assert!(part.expect(206).body == image[..10 * MB]);
    // Lyon does not go on with the pull after that, and has 16 MiB more at most.
    mesh.sites[1].restart(|_| {});
    wait("nice knows of the part", || {
        holding(&mesh.sites[2], "lyon", &id) == Some(false)
    });
    let paris = mesh.sites[0].config.peer.listen;
    let (_, manifest) = Liar::look_up(&mesh.authority, "scout", paris, &id);
    mesh.sites[0].stop();

    // Dijon has the rest, from a bit before where lyon's part ends.
    let chunks = Arc::new(Chunks::of(&manifest, &image));
    let rest = chunks.from(9 * MB as u64);
    let (encoded, told) = (manifest.encode(), rest.clone());
    let nice = &mesh.sites[2];
    let script = move |request: &FetchRequest| match request {
        FetchRequest::Open(_) => vec![Said::Reply(FetchReply::Have(told.clone()))],
        FetchRequest::Get {
            request,
            chunks: runs,
        } => send(*request, &chunks.of_runs(runs)),
        other => honest(other, &encoded, chunks.len()),
    };
    let dijon = Liar::join(&mesh.authority, "dijon", nice.config.peer.listen, script);
    dijon.claim_part(manifest.id(), &rest);
    wait("nice knows of the rest", || {
        holding(nice, "dijon", &id) == Some(false)
    });
    assert!(nice.download(&id) == image);
    wait("the pull has ended", || !receipts(nice, &id).is_empty());
    let receipt = &receipts(nice, &id)[0];
    let raw = |site: &str| receipt["peers"][site]["raw"].as_u64().unwrap_or(0);
    assert!(raw("lyon") >= 8 * MB as u64, "{receipt}");
    assert!(raw("dijon") >= 13 * MB as u64, "{receipt}");
    assert_eq!(holding(nice, "nice", &id), Some(true));
}

#[test]
fn what_a_pull_has_brought_is_passed_on_while_it_runs() {
    let mut mesh = Mesh::start(&["paris", "lyon", "nice"]);
    let image = noise(51, 16 * MB);
    let id = mesh.sites[0].image(&image);
    wait_for_image(&mesh.sites[1], &id);
    wait_for_image(&mesh.sites[2], &id);
    let paris = mesh.sites[0].config.peer.listen;
    let (_, manifest) = Liar::look_up(&mesh.authority, "scout", paris, &id);
    let chunks = Arc::new(Chunks::of(&manifest, &image));
    mesh.sites[0].stop();

    // The only holder left is slow, and only lyon can reach it.
    let encoded = manifest.encode();
    let lyon = mesh.sites[1].config.peer.listen;
    let slow = Liar::join(
        &mesh.authority,
        "dijon",
        lyon,
        move |request| match request {
            FetchRequest::Get {
                request,
                chunks: runs,
            } => {
                let mut said = vec![Said::Pause(Duration::from_millis(300))];
                said.extend(send(*request, &chunks.of_runs(runs)));
                said
            }
            other => honest(other, &encoded, chunks.len()),
        },
    );
    slow.claim(manifest.id());
    let [_, lyon, nice] = &mesh.sites[..] else {
        panic!("three sites")
    };
    wait("lyon knows who holds it", || {
        holding(lyon, "dijon", &id) == Some(true)
    });
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| lyon.download(&id));
        wait("nice knows of a part", || {
            holding(nice, "lyon", &id) == Some(false)
        });
        assert!(!pull.is_finished());
        assert!(nice.download(&id) == image);
        assert!(pull.join().unwrap() == image);
    });
    wait("the pull has ended", || !receipts(nice, &id).is_empty());
    let receipt = &receipts(nice, &id)[0];
    let peers: Vec<&String> = receipt["peers"].as_object().unwrap().keys().collect();
    assert_eq!(peers, ["lyon"], "{receipt}");
}

#[test]
fn what_a_site_had_before_it_joined_can_be_had_from_it() {
    let mesh = Mesh::start(&["paris"]);
    let mut lyon = Site::start();
    let image = noise(55, MB);
    let id = lyon.image(&image);
    let address = free_address();
    mesh.authority
        .enroll(&mut lyon.config, "lyon", address, mesh.seed);
    lyon.restart(|_| {});
    wait_for_image(&mesh.sites[0], &id);
    assert!(mesh.sites[0].download(&id) == image);
}

fn send(request: u32, chunks: &[VerifiedChunk]) -> Vec<Said> {
    let frame = Encoder::new(1).unwrap().encode(chunks).unwrap();
    let frame: Bytes = frame.bytes.into();
    let missing = Runs::new();
    vec![
        Said::Reply(FetchReply::Frame { request, frame }),
        Said::Reply(FetchReply::Done { request, missing }),
    ]
}

#[test]
fn a_holder_that_lost_chunks_is_no_source_for_them() {
    let mut mesh = Mesh::start(&["paris", "lyon", "nice"]);
    let image = noise(52, 8 * MB);
    let id = mesh.sites[0].image(&image);
    wait_for_image(&mesh.sites[1], &id);
    assert!(mesh.sites[1].download(&id) == image);
    wait("nice knows two holders", || {
        holding(&mesh.sites[2], "lyon", &id) == Some(true)
    });
    damage(&mut mesh.sites[1]);

    // Lyon finds out only when nice asks for the chunks.
    let nice = &mesh.sites[2];
    assert!(nice.download(&id) == image);
    wait("the pull has ended", || !receipts(nice, &id).is_empty());
    assert_eq!(nice.verify()["ok"], true);
    let lyon = &mesh.sites[1];
    wait("lyon is whole again", || lyon.verify()["ok"] == true);
}

#[test]
fn a_holder_that_lost_chunks_for_good_holds_a_part() {
    let mut mesh = Mesh::start(&["paris", "lyon", "nice"]);
    let image = noise(53, 8 * MB);
    let id = mesh.sites[0].image(&image);
    wait_for_image(&mesh.sites[1], &id);
    assert!(mesh.sites[1].download(&id) == image);
    wait("nice knows two holders", || {
        holding(&mesh.sites[2], "lyon", &id) == Some(true)
    });
    mesh.sites[0].stop();
    damage(&mut mesh.sites[1]);
    let (lyon, nice) = (&mesh.sites[1], &mesh.sites[2]);
    let found = lyon.stream("/v1/store/scrub", "");
    assert_eq!(found["ok"], false);
    assert!(!found["damaged"].as_array().unwrap().is_empty());
    wait("nice knows of the loss", || {
        holding(nice, "lyon", &id) == Some(false)
    });
    let start = nice
        .request("GET", &format!("/v2/images/{id}/file"))
        .header("Range", "bytes=0-99999")
        .send();
    assert!(start.expect(206).body == image[..100_000]);
    // It does not forget what it owes.
    assert_eq!(lyon.verify()["ok"], false);
    mesh.sites[1].restart(|_| {});
    assert_eq!(mesh.sites[1].verify()["ok"], false);
    mesh.sites[0].restart(|_| {});
    wait("lyon is whole again", || {
        mesh.sites[1].verify()["ok"] == true
    });
    let lyon = &mesh.sites[1];
    // Counted when the pull that brought it has ended.
    wait("the repair is counted", || {
        let metrics = lyon.operator("GET", "/metrics").send().expect(200).text();
        metrics
            .lines()
            .any(|line| line == "vitrail_repaired_images_total 1")
    });
}

#[test]
fn a_site_scrubs_by_itself_and_is_repaired() {
    let mut mesh = Mesh::start(&["paris"]);
    mesh.join_with("lyon", |config| config.store.scrub_period_s = 2);
    let image = noise(54, 4 * MB);
    let id = mesh.sites[0].image(&image);
    wait_for_image(&mesh.sites[1], &id);
    assert!(mesh.sites[1].download(&id) == image);
    damage(&mut mesh.sites[1]);
    let lyon = &mesh.sites[1];
    wait("the damage was found", || {
        lyon.store()["damaged_chunks"] != 0
    });
    let told: Value = lyon.store();
    wait("lyon is whole again", || lyon.verify()["ok"] == true);
    assert!(told["damaged_chunks"].as_u64().unwrap() > 0);
}
