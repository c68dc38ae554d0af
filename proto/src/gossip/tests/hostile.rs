//! Members that lie, have a wrong clock, a wrong version or our name.

use super::*;
use crate::clock::AHEAD_MAX_MS;

#[test]
fn versions_that_do_not_overlap_and_false_names_are_refused() {
    for (version, name, reason) in [
        (2, "a", "a speaks gossip versions 2 to 3, this site 1"),
        (1, "c", "a calls itself c"),
    ] {
        let mut mesh = Mesh::new(&["a", "b"]);
        let connection = mesh.connect(0, 1);
        let hello = Message::Hello(Hello {
            version_min: version,
            version_max: 3,
            name: name.into(),
            boot: 1,
            settled: true,
            digest: [0; 16],
        });
        mesh.deliver(1, connection, &hello.encode());
        mesh.settle();
        assert_eq!(mesh.members[1].hung_up, [reason]);
    }
}

#[test]
fn invented_holdings_live_until_their_site_hears_of_them() {
    for newer in [true, false] {
        let mut mesh = Mesh::new(&["a", "b", "liar"]);
        mesh.connect(0, 1);
        let lie = mesh.connect(2, 1);
        mesh.hold(0, b"true", &Holding::Complete);
        mesh.seconds(100);
        let a = site_number("a");
        let told = mesh.members[1].gossip.state.version(site_log(a));
        let (from, to) = if newer {
            (told, told + 1000)
        } else {
            (0, told)
        };
        let entry = PartEntry {
            key: Key::Holding(ManifestId::of(b"false")),
            version: if newer { to } else { told - 1 },
            value: Holding::Complete.encode(),
        };
        mesh.deliver(1, lie, &forged(site_log(a), from, to, vec![entry]));
        assert_eq!(mesh.holders(1, b"false").len(), 1, "the lie is believed");
        mesh.seconds(if newer { 20 } else { 400 });
        assert_eq!(mesh.holders(1, b"false"), []);
        assert_eq!(mesh.holders(2, b"true"), [(a, Holding::Complete)]);
        mesh.assert_equal();
        let disputed = |e: &Event| matches!(e, Event::Disputed { .. });
        assert!(mesh.members[0].events.iter().any(disputed));
    }
}

#[test]
fn what_a_liar_withholds_comes_from_others() {
    let mut mesh = Mesh::new(&["a", "b", "liar"]);
    let lie = mesh.connect(2, 1);
    mesh.write(0, 1, "x", 1);
    mesh.seconds(5);
    let log = image_log(site_number("a"));
    let version = mesh.members[0].gossip.state.version(log);
    mesh.deliver(1, lie, &forged(log, 0, version, vec![]));
    mesh.connect(0, 1);
    mesh.seconds(5);
    assert_eq!(mesh.members[1].records.0, mesh.members[0].records.0);
}

#[test]
fn a_clock_a_year_ahead_is_named_and_not_believed() {
    let mut mesh = Mesh::new(&["a", "b"]);
    let connection = mesh.connect(0, 1);
    mesh.seconds(5);
    let a = site_number("a");
    let year_ms = 365 * 24 * 3600 * 1000;
    let version = (mesh.now().unix_ms + year_ms) << 16;
    let from = mesh.members[1].gossip.state.version(site_log(a));
    let bytes = forged(site_log(a), from, version, vec![]);
    mesh.deliver(1, connection, &bytes);
    mesh.settle();
    let event = Event::ClockAhead {
        neighbour: "a".into(),
        site: a,
        ahead_ms: year_ms,
    };
    assert!(mesh.members[1].events.contains(&event));
    assert_eq!(mesh.members[1].gossip.state.version(site_log(a)), from);
    mesh.hold(0, b"m", &Holding::Complete);
    mesh.seconds(5);
    assert_eq!(mesh.holders(1, b"m").len(), 1);
}

#[test]
fn a_record_with_a_stamp_a_year_ahead_is_not_merged() {
    let mut mesh = Mesh::new(&["a", "b"]);
    mesh.connect(0, 1);
    mesh.seconds(5);
    let ahead = mesh.now().unix_ms + AHEAD_MAX_MS + 10_000;
    let stamp = Clock::new("a").tick(ahead);
    let record = Record::new(id(1), stamp);
    let now = mesh.now();
    let member = &mut mesh.members[0];
    member.records.0.insert(id(1), record);
    member.gossip.handle_written(id(1), now, &member.records);
    mesh.write(0, 2, "x", 1);
    mesh.seconds(5);
    assert_eq!(mesh.members[1].records.ids(), [id(2)]);
    let ahead =
        |e: &Event| matches!(e, Event::ClockAhead { site, .. } if *site == site_number("a"));
    assert!(mesh.members[1].events.iter().any(ahead));
}

#[test]
fn of_two_daemons_with_one_name_the_later_start_stays() {
    let mut mesh = Mesh::new(&["twin", "b"]);
    mesh.connect(0, 1);
    mesh.hold(0, b"old", &Holding::Complete);
    mesh.seconds(5);
    let later = mesh.add(config("twin"), Start::default(), Records::default());
    mesh.hold(later, b"new", &Holding::Complete);
    let mut c = config("c");
    c.seeds.push("b:9293".into());
    let c = mesh.add(c, Start::default(), Records::default());
    mesh.connect(later, c);
    mesh.connect(c, 1);
    mesh.seconds(200);
    let outranked = Event::Outranked {
        addresses: vec!["twin:9293".into()],
    };
    assert_eq!(
        mesh.members[0]
            .events
            .iter()
            .filter(|e| **e == outranked)
            .count(),
        1
    );
    assert!(mesh.members[0].gossip.neighbours().next().is_none());
    assert!(mesh.members[0].gossip.poll_timeout().is_none());
    assert!(mesh.members[later].gossip.neighbours().next().is_some());
    let twin = site_number("twin");
    assert_eq!(mesh.holders(1, b"new"), [(twin, Holding::Complete)]);
    assert_eq!(mesh.holders(1, b"old"), []);
}

#[test]
fn an_invented_rival_does_not_drive_a_site_out() {
    let mut mesh = Mesh::new(&["a", "b", "liar"]);
    mesh.connect(0, 1);
    let lie = mesh.connect(2, 1);
    mesh.hold(0, b"m", &Holding::Complete);
    mesh.seconds(100);
    let a = site_number("a");
    let mut info = mesh.members[1].gossip.state.site(a).unwrap().info.clone();
    info.boot = u64::MAX;
    let version = (mesh.now().unix_ms << 16) + 7;
    info.since = version;
    let entry = PartEntry {
        key: Key::Info,
        version,
        value: info.encode(),
    };
    mesh.deliver(1, lie, &forged(site_log(a), 0, version, vec![entry]));
    mesh.seconds(20);
    assert!(mesh.members[0].gossip.neighbours().next().is_some());
    assert_eq!(mesh.holders(1, b"m"), [(a, Holding::Complete)]);
    let told = &mesh.members[1].gossip.state.site(a).unwrap().info;
    assert!(told.boot < u64::MAX);
    mesh.assert_equal();
}

#[test]
fn who_fills_a_site_up_does_not_cut_it_off() {
    let mut mesh = Mesh::new(&["a", "b", "liar"]);
    mesh.connect(0, 1);
    let lie = mesh.connect(2, 1);
    mesh.seconds(10);
    let version = mesh.now().unix_ms << 16;
    for first in (0..10_000).step_by(500) {
        let parts = (first..first + 500).map(|site| Part {
            log: site_log(site),
            from: 0,
            to: version,
            entries: vec![],
        });
        let bytes = Message::Delta(parts.collect()).encode();
        mesh.deliver(1, lie, &bytes);
    }
    assert!(mesh.members[1].gossip.refused() > 1000);
    mesh.hold(0, b"m", &Holding::Complete);
    mesh.seconds(10);
    assert_eq!(mesh.holders(1, b"m").len(), 1);
    assert_eq!(mesh.members[1].gossip.neighbours().count(), 2);
}
