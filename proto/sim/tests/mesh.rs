//! Joining, failing, returning: what an operator sees of a mesh.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;
use vitrail_proto::gossip::{Event, Holding, INBOUND_MAX};
use vitrail_proto::id::ManifestId;
use vitrail_proto::record::Value;
use vitrail_sim::check;
use vitrail_sim::mesh::{Mesh, Options, number};
use vitrail_sim::network::IDLE_TIMEOUT;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn mesh(sites: usize) -> Mesh {
    let mut mesh = Mesh::new(&Options {
        sites,
        ..Options::default()
    });
    for node in 0..sites {
        mesh.start(node);
    }
    mesh
}

fn write(mesh: &mut Mesh, node: usize, image: u128, key: &str) {
    mesh.write(node, Uuid::from_u128(image), key, Some(Value::Int(1)));
}

#[test]
fn one_seed_is_enough_for_many_that_join_at_once() {
    let mut mesh = mesh(80);
    mesh.run(Duration::from_secs(240));
    check::who_is_up(&mesh);
    for node in 0..80 {
        assert!(mesh.network.degree(node) <= INBOUND_MAX + 8, "site {node}");
    }
    let joined = mesh.sites.iter().all(|site| {
        let gossip = site.gossip.as_ref().expect("on");
        gossip.is_settled()
    });
    assert!(joined);
}

#[test]
fn a_site_that_dies_is_down_everywhere_soon_after_the_idle_timeout() {
    let mut mesh = mesh(30);
    mesh.run(Duration::from_secs(300));
    mesh.crash(7, None);
    mesh.run(IDLE_TIMEOUT + Duration::from_secs(6));
    check::who_is_up(&mesh);
    mesh.start(7);
    mesh.run(Duration::from_secs(15));
    check::who_is_up(&mesh);
}

#[test]
fn a_site_that_stops_is_down_everywhere_in_seconds() {
    let mut mesh = mesh(30);
    mesh.run(Duration::from_secs(300));
    mesh.stop(7);
    mesh.run(Duration::from_secs(6));
    check::who_is_up(&mesh);
}

#[test]
fn the_mesh_survives_a_third_of_its_sites_and_its_seed() {
    let mut mesh = mesh(30);
    mesh.run(Duration::from_secs(300));
    for node in (0..30).step_by(3) {
        mesh.crash(node, None);
    }
    mesh.run(Duration::from_secs(90));
    write(&mut mesh, 1, 1, "name");
    mesh.run(Duration::from_secs(3));
    check::catalogues(&mesh);
    check::who_is_up(&mesh);
}

#[test]
fn halves_find_each_other_after_a_day() {
    let mut mesh = mesh(10);
    mesh.run(Duration::from_secs(120));
    let half: BTreeSet<usize> = (0..5).collect();
    mesh.set_partition(&half, true);
    mesh.run(DAY);
    write(&mut mesh, 0, 1, "name");
    write(&mut mesh, 9, 1, "p:os");
    mesh.set_partition(&half, false);
    // An outage is looked at after a sixteenth of its length, at most 10 minutes.
    mesh.run(Duration::from_secs(800));
    check::all(&mesh);
}

#[test]
fn nothing_comes_back_with_a_site_that_was_off_for_long() {
    let mut mesh = mesh(4);
    let away = 3;
    for image in 0..10 {
        write(&mut mesh, image as usize % 4, image, "name");
        write(&mut mesh, 0, image, "p:old");
    }
    for node in 0..4 {
        mesh.hold(node, ManifestId::of(b"m"), Holding::Complete);
    }
    mesh.run(Duration::from_secs(300));
    check::all(&mesh);
    mesh.stop(away);
    for image in 0..5 {
        mesh.delete(1, Uuid::from_u128(image));
    }
    for image in 5..8 {
        mesh.write(2, Uuid::from_u128(image), "p:old", None);
    }
    mesh.hold(0, ManifestId::of(b"m"), Holding::None);
    mesh.run(32 * DAY);
    // What was removed is forgotten, by everybody who may.
    for node in 0..3 {
        mesh.forget_deleted(node);
        assert_eq!(mesh.sites[node].records.0.len(), 5);
    }
    mesh.truth.clone_from(&mesh.sites[0].records.0);
    mesh.start(away);
    mesh.forget_deleted(away);
    // Before it meets anybody it makes an image.
    write(&mut mesh, away, 50, "name");
    mesh.run(Duration::from_secs(60));
    check::all(&mesh);
    let dropped: Vec<Uuid> = (0..5).map(Uuid::from_u128).collect();
    let returned = Event::Returned { dropped };
    assert!(mesh.sites[away].told.contains(&returned));
}

#[test]
fn a_site_whose_clock_is_a_year_ahead_harms_nobody_and_comes_right() {
    let mut mesh = mesh(5);
    mesh.run(Duration::from_secs(60));
    mesh.stop(4);
    mesh.set_ahead(4, 365 * DAY);
    mesh.start(4);
    mesh.hold(4, ManifestId::of(b"m"), Holding::Complete);
    mesh.run(Duration::from_secs(60));
    for node in 0..4 {
        assert!(check::holdings_at(&mesh, node, 4).is_empty());
    }
    let named =
        |event: &Event| matches!(event, Event::ClockAhead { site, .. } if *site == number(4));
    assert!((0..4).any(|node| mesh.sites[node].told.iter().any(named)));
    write(&mut mesh, 0, 1, "name");
    mesh.run(Duration::from_secs(5));
    for node in 0..4 {
        assert_eq!(mesh.sites[node].records.0.len(), 1);
    }
    mesh.set_ahead(4, Duration::ZERO);
    mesh.run(Duration::from_secs(120));
    check::all(&mesh);
}
