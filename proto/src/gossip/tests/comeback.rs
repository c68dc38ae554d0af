//! Restarts, crashes, long absences.

use std::collections::BTreeSet;

use super::*;

/// Stops a site and starts it from what it exported.
fn restart(mesh: &mut Mesh, at: usize, clean: bool, exported: &[u8], held: &[&[u8]]) {
    let lost: Vec<ConnectionId> = mesh
        .connections
        .iter()
        .filter(|(_, ends)| ends.contains(&at))
        .map(|(connection, _)| *connection)
        .collect();
    for connection in lost {
        mesh.disconnect(connection);
    }
    let start = Start {
        snapshot: Some(Snapshot::decode(exported).expect("our own")),
        clean,
        holdings: held
            .iter()
            .map(|m| (ManifestId::of(m), Holding::Complete))
            .collect(),
    };
    let now = mesh.now();
    let member = &mut mesh.members[at];
    let config = member.gossip.config.clone();
    member.gossip = Gossip::new(config, start, now, 99, &member.records);
}

#[test]
fn a_restart_is_cheap_and_a_crash_leaves_nothing_false() {
    for clean in [true, false] {
        let mut mesh = Mesh::new(&["a", "b"]);
        for image in 0..100 {
            mesh.write(1, image, "x", 1);
        }
        mesh.hold(0, b"kept", &Holding::Complete);
        mesh.connect(0, 1);
        mesh.seconds(10);
        let exported = mesh.members[0].gossip.export();
        let held: &[&[u8]] = if clean {
            &[b"kept"]
        } else {
            // Told after the export, and lost in the crash.
            mesh.hold(0, b"lost", &Holding::Complete);
            mesh.seconds(1);
            assert_eq!(mesh.holders(1, b"lost").len(), 1);
            &[b"kept"]
        };
        restart(&mut mesh, 0, clean, &exported, held);
        let before = mesh.members[1].sent;
        mesh.connect(0, 1);
        mesh.seconds(10);
        mesh.assert_equal();
        assert_eq!(mesh.holders(1, b"kept").len(), 1);
        assert_eq!(mesh.holders(1, b"lost"), []);
        let told = mesh.members[1].sent - before;
        assert!(told < 2000, "{told} bytes told again");
    }
}

#[test]
fn nothing_removed_comes_back_with_a_site_that_was_away_for_long() {
    let mut mesh = Mesh::new(&["a", "b", "away"]);
    mesh.connect(0, 1);
    let way = mesh.connect(1, 2);
    for image in 1..=3 {
        mesh.write(0, image, "x", 1);
        mesh.write(0, image, "y", 1);
    }
    mesh.write(2, 4, "x", 1);
    mesh.hold(0, b"m", &Holding::Complete);
    mesh.seconds(60);
    mesh.assert_equal();

    mesh.disconnect(way);
    // Image 1 is deleted and forgotten, image 2 loses a property without a trace, a holding ends.
    for member in &mut mesh.members[..2] {
        member.records.0.remove(&id(1));
        let mut record = Record::new(id(2), member.records.0[&id(2)].created);
        let stamp = member.records.0[&id(2)].latest();
        record.set("x", Some(Value::Int(1)), stamp);
        member.records.0.insert(id(2), record);
    }
    mesh.hold(0, b"m", &Holding::None);
    mesh.run(15 * DAY);
    mesh.write(2, 2, "z", 1);
    mesh.write(2, 5, "x", 1);
    mesh.run(17 * DAY);
    mesh.write(1, 6, "x", 1);
    mesh.connect(1, 2);
    mesh.seconds(60);

    mesh.assert_equal();
    let away = &mesh.members[2];
    let ids: BTreeSet<Uuid> = away.records.ids().into_iter().collect();
    assert_eq!(ids, [2, 3, 4, 5, 6].map(id).into());
    assert_eq!(away.records.0[&id(2)].get("y"), None);
    assert_eq!(away.records.0[&id(2)].get("z"), Some(&Value::Int(1)));
    assert_eq!(mesh.holders(2, b"m"), []);
    let returned = Event::Returned {
        dropped: vec![id(1)],
    };
    assert!(away.events.contains(&returned));
}

#[test]
fn if_all_were_away_nothing_is_dropped() {
    let mut mesh = Mesh::new(&["a", "b"]);
    let way = mesh.connect(0, 1);
    mesh.write(0, 1, "x", 1);
    mesh.seconds(60);
    mesh.disconnect(way);
    mesh.write(1, 1, "x", 2);
    mesh.write(1, 2, "x", 2);
    mesh.run(31 * DAY);
    mesh.connect(0, 1);
    mesh.seconds(1000);
    mesh.assert_equal();
    assert_eq!(mesh.members[0].records.ids(), [id(1), id(2)]);
}

#[test]
fn a_clock_that_was_ahead_and_is_set_right_is_heard_again() {
    let mut mesh = Mesh::new(&["b"]);
    let year = 365 * DAY;
    mesh.time += year;
    let ahead = mesh.add(config("a"), Start::default(), Records::default());
    mesh.time -= year;
    mesh.hold(ahead, b"m", &Holding::Complete);
    mesh.connect(0, ahead);
    mesh.seconds(10);
    assert_eq!(mesh.holders(0, b"m").len(), 1);
    mesh.assert_equal();
}
