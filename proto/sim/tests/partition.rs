//! Cut in two for a minute, with writes and deletes on both sides.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;
use vitrail_proto::gossip::Holding;
use vitrail_proto::id::ManifestId;
use vitrail_proto::record::Value;
use vitrail_sim::check;
use vitrail_sim::mesh::{Mesh, Options};

const MINUTE: Duration = Duration::from_secs(60);

fn write(mesh: &mut Mesh, node: usize, image: u128, value: u64) {
    let id = Uuid::from_u128(image);
    mesh.write(
        node,
        id,
        "name",
        Some(Value::Text(format!("image {value}"))),
    );
    mesh.write(node, id, "p:os_distro", Some(Value::Text("debian".into())));
    mesh.write(node, id, "min_disk", Some(Value::Int(value)));
}

/// Bytes of messages that all sites have received.
fn received(mesh: &Mesh) -> u64 {
    (0..mesh.sites.len())
        .map(|node| mesh.network.traffic(node).received)
        .sum()
}

/// Runs the partition; returns bytes of reconciliation, and bytes of the records that differed.
fn partition(sites: usize, images: u128, cut: Duration) -> (u64, u64) {
    let mut mesh = Mesh::new(&Options {
        sites,
        ..Options::default()
    });
    for node in 0..sites {
        mesh.start(node);
    }
    for image in 0..images {
        write(&mut mesh, image as usize % sites, image, 1);
    }
    mesh.run(MINUTE);
    check::catalogues(&mesh);
    let half: BTreeSet<usize> = (0..sites / 2).collect();
    mesh.set_partition(&half, true);
    mesh.run(cut / 2);
    let mut touched = BTreeSet::new();
    for i in 0..10 {
        // Both halves write to the same images, delete different ones, and make new ones.
        for (node, image) in [(0, i), (sites - 1, i), (0, 1000 + i), (sites - 1, 2000 + i)] {
            write(&mut mesh, node, image, 2);
            touched.insert(Uuid::from_u128(image));
        }
        for (node, image) in [(0, 20 + i), (sites - 1, 30 + i), (0, i / 2)] {
            mesh.delete(node, Uuid::from_u128(image));
            touched.insert(Uuid::from_u128(image));
        }
        mesh.hold(
            sites - 1,
            ManifestId::of(&i.to_le_bytes()),
            Holding::Complete,
        );
    }
    mesh.run(cut / 2);
    let before = received(&mesh);
    mesh.set_partition(&half, false);
    mesh.run(Duration::from_secs(5));
    check::catalogues(&mesh);
    check::holdings(&mesh);
    let difference = touched
        .iter()
        .map(|id| mesh.truth[id].encode().len() as u64)
        .sum();
    (received(&mesh) - before, difference)
}

#[test]
fn sites_are_equal_5_seconds_after_a_minute_apart() {
    let (cost, difference) = partition(5, 100, MINUTE);
    eprintln!(
        "5 sites, 60 s: {cost} bytes received in all for {difference} bytes of records that differed"
    );
    // Each half has to be told at each of its sites.
    assert!(cost < 12 * difference, "{cost} bytes for {difference}");
}

#[test]
fn the_cost_does_not_depend_on_what_is_equal() {
    let (few, _) = partition(5, 100, MINUTE * 3);
    let (many, difference) = partition(5, 2000, MINUTE * 3);
    eprintln!(
        "5 sites, 180 s: {few} bytes with 100 images, {many} with 2000, {difference} differed"
    );
    assert!(
        many < few + few / 4,
        "{many} bytes with 2000 images, {few} with 100"
    );
}
