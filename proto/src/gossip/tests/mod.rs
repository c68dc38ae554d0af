//! A few sites with instant links. Larger meshes with faults are in `proto/sim`.

mod comeback;
mod hostile;

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::clock::Clock;
use crate::record::{Merge, Record, Value};

const START_MS: u64 = 1_700_000_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Default)]
struct Records(BTreeMap<Uuid, Record>);

impl Catalogue for Records {
    fn ids(&self) -> Vec<Uuid> {
        self.0.keys().copied().collect()
    }
    fn record(&self, id: Uuid) -> Option<Record> {
        self.0.get(&id).cloned()
    }
    fn merge(&mut self, record: Record) -> Result<Merge, CatalogueFailed> {
        match self.0.get_mut(&record.id) {
            Some(ours) => Ok(ours.merge(record)),
            None => {
                self.0.insert(record.id, record);
                Ok(Merge::Changed)
            }
        }
    }
    fn replace(&mut self, record: Record) -> Result<(), CatalogueFailed> {
        self.0.insert(record.id, record);
        Ok(())
    }
    fn forget(&mut self, id: Uuid) -> Result<(), CatalogueFailed> {
        self.0.remove(&id);
        Ok(())
    }
}

struct Member {
    gossip: Gossip,
    records: Records,
    clock: Clock,
    events: Vec<Event>,
    hung_up: Vec<String>,
    /// Bytes sent.
    sent: usize,
}

/// Sites by index. Connections are made by the tests, never by the sites.
struct Mesh {
    members: Vec<Member>,
    /// Connection → its two ends.
    connections: BTreeMap<ConnectionId, [usize; 2]>,
    next: ConnectionId,
    time: Duration,
}

fn config(name: &str) -> Config {
    Config {
        name: name.into(),
        zone: "z".into(),
        software: "test".into(),
        addresses: vec![format!("{name}:9293")],
        seeds: vec![],
    }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

impl Mesh {
    fn new(names: &[&str]) -> Self {
        let mut mesh = Self {
            members: Vec::new(),
            connections: BTreeMap::new(),
            next: 0,
            time: Duration::from_secs(1),
        };
        for name in names {
            mesh.add(config(name), Start::default(), Records::default());
        }
        mesh
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.time,
            unix_ms: START_MS + self.time.as_millis() as u64,
        }
    }

    fn add(&mut self, config: Config, start: Start, records: Records) -> usize {
        let seed = self.members.len() as u64;
        let clock = Clock::new(&config.name);
        self.members.push(Member {
            gossip: Gossip::new(config, start, self.now(), seed, &records),
            records,
            clock,
            events: Vec::new(),
            hung_up: Vec::new(),
            sent: 0,
        });
        self.members.len() - 1
    }

    fn connect(&mut self, a: usize, b: usize) -> ConnectionId {
        let (connection, now) = (self.next, self.now());
        self.next += 1;
        self.connections.insert(connection, [a, b]);
        let names = [a, b].map(|i| self.members[i].gossip.config.name.clone());
        let target = Target::Site(site_number(&names[1]));
        self.members[a]
            .gossip
            .handle_connected(connection, &names[1], Some(target), now);
        self.members[b]
            .gossip
            .handle_connected(connection, &names[0], None, now);
        connection
    }

    fn disconnect(&mut self, connection: ConnectionId) {
        let now = self.now();
        for end in self.connections.remove(&connection).into_iter().flatten() {
            self.members[end]
                .gossip
                .handle_disconnected(connection, now);
        }
    }

    fn deliver(&mut self, to: usize, connection: ConnectionId, bytes: &[u8]) {
        let now = self.now();
        let member = &mut self.members[to];
        member
            .gossip
            .handle_message(connection, bytes, now, &mut member.records);
    }

    /// Finds out whether there is another daemon with a member's name.
    fn look(&mut self, of: usize, addresses: Vec<String>) {
        let name = &self.members[of].gossip.config.name;
        let alike = |member: &&Member| member.gossip.config.name == *name;
        if self.members.iter().filter(alike).count() > 1 {
            let now = self.now();
            self.members[of].gossip.handle_rival(addresses, now);
        }
    }

    /// Carries out outputs until there are none.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut quiet = true;
            for i in 0..self.members.len() {
                while let Some(output) = self.members[i].gossip.poll() {
                    quiet = false;
                    match output {
                        Output::Ready(connection) => self.drain(i, connection),
                        Output::HangUp { connection, reason } => {
                            self.members[i].hung_up.push(reason);
                            self.disconnect(connection);
                        }
                        Output::Event(Event::Rival { addresses }) => self.look(i, addresses),
                        Output::Event(event) => self.members[i].events.push(event),
                        Output::Dial { .. } => {}
                    }
                }
            }
            if quiet {
                return;
            }
        }
        panic!("the sites do not come to rest");
    }

    fn drain(&mut self, from: usize, connection: ConnectionId) {
        let now = self.now();
        loop {
            let member = &mut self.members[from];
            let Some(bytes) = member.gossip.poll_message(connection, now, &member.records) else {
                return;
            };
            member.sent += bytes.len() + 4;
            if let Some(ends) = self.connections.get(&connection) {
                let to = if ends[0] == from { ends[1] } else { ends[0] };
                self.deliver(to, connection, &bytes);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.time + time;
        self.settle();
        for _ in 0..1_000_000 {
            let next = self.members.iter().filter_map(|m| m.gossip.poll_timeout());
            let Some(next) = next.min().filter(|next| *next <= end) else {
                self.time = end;
                return;
            };
            self.time = self.time.max(next);
            let now = self.now();
            for member in &mut self.members {
                member.gossip.handle_timeout(now, &mut member.records);
            }
            self.settle();
        }
        panic!("the sites wake up without end");
    }

    fn seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    fn write(&mut self, at: usize, image: u128, key: &str, value: u64) {
        let now = self.now();
        let member = &mut self.members[at];
        let stamp = member.clock.tick(now.unix_ms);
        let record = member.records.0.entry(id(image));
        let record = record.or_insert_with(|| Record::new(id(image), stamp));
        record.set(key, Some(Value::Int(value)), stamp);
        member
            .gossip
            .handle_written(id(image), now, &member.records);
    }

    fn hold(&mut self, at: usize, manifest: &[u8], holding: &Holding) {
        let now = self.now();
        let manifest = ManifestId::of(manifest);
        self.members[at].gossip.set_holding(manifest, holding, now);
    }

    /// Everybody knows the same of sites and images.
    fn assert_equal(&self) {
        let now = self.now();
        let first = &self.members[0];
        for member in &self.members[1..] {
            assert_eq!(member.records.0, first.records.0);
            let digest = member.gossip.state.digest(now.unix_ms);
            assert_eq!(digest, first.gossip.state.digest(now.unix_ms));
        }
    }

    fn holders(&self, at: usize, manifest: &[u8]) -> Vec<(SiteNumber, Holding)> {
        self.members[at].gossip.holders(&ManifestId::of(manifest))
    }
}

/// Forged by a member: a stretch of another site's log.
fn forged(log: LogId, from: u64, to: u64, entries: Vec<PartEntry>) -> Vec<u8> {
    Message::Delta(vec![Part {
        log,
        from,
        to,
        entries,
    }])
    .encode()
}

#[test]
fn what_is_told_at_one_end_of_a_line_arrives_at_the_other() {
    let mut mesh = Mesh::new(&["a", "b", "c"]);
    mesh.write(0, 1, "x", 1);
    mesh.hold(0, b"m", &Holding::Complete);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.seconds(10);
    mesh.assert_equal();
    let a = site_number("a");
    assert_eq!(mesh.holders(2, b"m"), [(a, Holding::Complete)]);
    assert!(mesh.members[2].gossip.is_up(a));

    mesh.hold(0, b"m", &Holding::None);
    mesh.write(2, 1, "x", 2);
    mesh.seconds(1);
    mesh.assert_equal();
    assert_eq!(mesh.holders(2, b"m"), []);
}

#[test]
fn a_site_is_down_when_nobody_is_connected_with_it() {
    let mut mesh = Mesh::new(&["a", "b", "c"]);
    mesh.connect(0, 1);
    let lost = mesh.connect(1, 2);
    mesh.seconds(10);
    mesh.disconnect(lost);
    mesh.seconds(10);
    let c = site_number("c");
    assert!(!mesh.members[0].gossip.is_up(c));
    assert!(mesh.members[0].events.contains(&Event::SiteDown(c)));
    assert!(mesh.members[0].gossip.sites().iter().any(|s| s.number == c));
}

#[test]
fn reconciling_costs_as_much_as_differs() {
    let mut mesh = Mesh::new(&["a", "b"]);
    for image in 0..2000 {
        mesh.write(0, image, "x", 1);
    }
    let connection = mesh.connect(0, 1);
    mesh.seconds(10);
    mesh.assert_equal();
    mesh.disconnect(connection);
    mesh.write(1, 7, "x", 2);
    let before: usize = mesh.members.iter().map(|m| m.sent).sum();
    mesh.connect(0, 1);
    mesh.seconds(1);
    mesh.assert_equal();
    let cost = mesh.members.iter().map(|m| m.sent).sum::<usize>() - before;
    assert!(cost < 1200, "{cost} bytes for one record");
}

#[test]
fn entries_travel_along_a_tree() {
    let names: Vec<String> = (0..8).map(|i| i.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut mesh = Mesh::new(&names);
    for a in 0..8 {
        for b in 0..a {
            mesh.connect(a, b);
        }
    }
    mesh.seconds(60);
    for image in 0..20 {
        mesh.write(image as usize % 8, image, "x", 1);
        mesh.seconds(2);
    }
    let before: usize = mesh.members.iter().map(|m| m.sent).sum();
    let text = 1000;
    for image in 100..110 {
        mesh.write(3, image, &"k".repeat(text), 1);
        mesh.seconds(2);
    }
    mesh.assert_equal();
    let sent = mesh.members.iter().map(|m| m.sent).sum::<usize>() - before;
    // 7 sites have to receive each record. Telling everybody by everybody would take 7 times as much.
    let least = 10 * 7 * text;
    assert!(sent < least * 3 / 2, "{sent} bytes sent, {least} needed");
}

#[test]
fn entries_and_messages_from_the_future_are_relayed_and_skipped() {
    let mut mesh = Mesh::new(&["a", "b", "c"]);
    let connection = mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.seconds(5);
    mesh.deliver(1, connection, &[200, 1, 2, 3]);
    // A newer program at `a` tells something that `b` does not know, and `c` may.
    let now = mesh.now();
    let a = &mut mesh.members[0].gossip;
    let key = Key::Unread {
        kind: 222,
        id: [1].into(),
    };
    let (log, from) = (site_log(a.number()), a.state.version(site_log(a.number())));
    let entry = PartEntry {
        key: key.clone(),
        version: now.unix_ms << 16,
        value: vec![9],
    };
    let bytes = forged(log, from, entry.version, vec![entry]);
    mesh.deliver(1, connection, &bytes);
    mesh.run(Duration::from_millis(200));
    let (_, value) = mesh.members[2]
        .gossip
        .state
        .get(log, &key)
        .expect("relayed");
    assert_eq!(value, [9]);
    assert!(mesh.members[1].hung_up.is_empty());

    mesh.deliver(1, connection, &[100, 1]);
    mesh.settle();
    assert_eq!(
        mesh.members[1].hung_up,
        ["a sent a malformed message: unknown gossip message kind: 100"]
    );
}

#[test]
fn one_of_two_connections_stays() {
    let mut mesh = Mesh::new(&["a", "b"]);
    mesh.connect(0, 1);
    mesh.connect(1, 0);
    mesh.seconds(5);
    assert_eq!(mesh.connections.len(), 1);
    for member in &mesh.members {
        assert_eq!(member.gossip.neighbours().count(), 1);
    }
    mesh.hold(0, b"m", &Holding::Complete);
    mesh.seconds(1);
    assert_eq!(mesh.holders(1, b"m").len(), 1);
}
