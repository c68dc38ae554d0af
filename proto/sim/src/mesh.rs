//! Many sites that gossip, each with a catalogue and a disk, and the truth beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;
use vitrail_proto::clock::{Clock, Stamp, site_number};
use vitrail_proto::gossip::{
    Catalogue, CatalogueFailed, Config, Event as Told, Gossip, Holding, MEMORY_MS, Now, Output,
    SiteNumber, Snapshot, Start, Target,
};
use vitrail_proto::id::ManifestId;
use vitrail_proto::random::Random;
use vitrail_proto::record::{Merge, Record, Value};

use crate::network::{Connection, Event, Network, Node};

/// When virtual time begins, in milliseconds since 1970.
const START_MS: u64 = 1_700_000_000_000;
/// How often a site writes what gossip exports.
const EXPORT_INTERVAL: Duration = Duration::from_secs(120);
/// Most messages of one event, and most events of one instant.
const BURST_MAX: usize = 100_000;

/// How a mesh is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of sites.
    pub sites: usize,
    /// Sites of one zone are this many.
    pub zone_size: usize,
    /// Round trip within a zone.
    pub near: Duration,
    /// Round trip between zones.
    pub far: Duration,
    /// Uplink of each site in bytes per second.
    pub uplink: u64,
    /// Clocks are wrong by at most this.
    pub skew: Duration,
    /// All chance comes from it.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sites: 5,
            zone_size: 3,
            near: Duration::from_millis(4),
            far: Duration::from_millis(80),
            uplink: 12_500_000,
            skew: Duration::ZERO,
            seed: 0,
        }
    }
}

/// The catalogue of a simulated site. Every write is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records(pub BTreeMap<Uuid, Record>);

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

/// A site.
#[derive(Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    config: Config,
    /// None while it is off.
    pub gossip: Option<Gossip>,
    /// Survives everything.
    pub records: Records,
    /// What it really holds. Survives everything.
    pub holdings: BTreeMap<ManifestId, Holding>,
    clock: Clock,
    ahead_ms: i64,
    /// The last export, and whether nothing was told since.
    disk: Option<(Vec<u8>, bool)>,
    exported: Duration,
    /// What gossip told, but for what is told all the time.
    pub told: Vec<Told>,
    /// Connections that gossip ended, with the reasons.
    pub hung_up: Vec<String>,
    dials: BTreeMap<u64, Target>,
    next_dial: u64,
}

/// All sites and their network.
#[derive(Debug)]
pub struct Mesh {
    /// The network.
    pub network: Network,
    /// The sites, by node.
    pub sites: Vec<Site>,
    /// All writes that were ever made, merged.
    pub truth: BTreeMap<Uuid, Record>,
    /// The chance of scenarios.
    pub random: Random,
    nodes: BTreeMap<SiteNumber, Node>,
    starts: u64,
    seed: u64,
}

/// The name of a node's site.
pub fn name(node: Node) -> String {
    format!("site-{node}")
}

/// The number of a node's site.
pub fn number(node: Node) -> SiteNumber {
    site_number(&name(node))
}

impl Mesh {
    /// A mesh of sites that are all off. The seed of every site is the first one.
    pub fn new(options: &Options) -> Self {
        let mut random = Random::new(options.seed);
        let mut network = Network::new(options.sites, options.far, options.uplink);
        let zone = |node: Node| node / options.zone_size;
        for a in 0..options.sites {
            for b in (0..a).rev().take_while(|b| zone(*b) == zone(a)) {
                network.set_rtt(a, b, options.near);
            }
        }
        let skew_ms = options.skew.as_millis() as i64;
        let sites = (0..options.sites)
            .map(|node| Site {
                name: name(node),
                config: Config {
                    name: name(node),
                    zone: format!("zone-{}", zone(node)),
                    software: "vitrail-sim".into(),
                    addresses: vec![node.to_string()],
                    seeds: if node == 0 { vec![] } else { vec!["0".into()] },
                },
                gossip: None,
                records: Records::default(),
                holdings: BTreeMap::new(),
                clock: Clock::new(&name(node)),
                ahead_ms: random.below(2 * skew_ms as usize + 1) as i64 - skew_ms,
                disk: None,
                exported: Duration::ZERO,
                told: Vec::new(),
                hung_up: Vec::new(),
                dials: BTreeMap::new(),
                next_dial: 0,
            })
            .collect();
        Self {
            network,
            sites,
            truth: BTreeMap::new(),
            random,
            nodes: (0..options.sites)
                .map(|node| (number(node), node))
                .collect(),
            starts: 0,
            seed: options.seed,
        }
    }

    /// The time at a site.
    pub fn now(&self, node: Node) -> Now {
        let true_ms = START_MS + self.network.now().as_millis() as u64;
        Now {
            monotonic: self.network.now(),
            unix_ms: true_ms.saturating_add_signed(self.sites[node].ahead_ms),
        }
    }

    /// Sets a site's clock ahead of the true time, or right.
    pub fn set_ahead(&mut self, node: Node, ahead: Duration) {
        self.sites[node].ahead_ms = ahead.as_millis() as i64;
    }

    /// The node of a site.
    pub fn node(&self, site: SiteNumber) -> Option<Node> {
        self.nodes.get(&site).copied()
    }

    /// Nodes that are on.
    pub fn running(&self) -> Vec<Node> {
        (0..self.sites.len())
            .filter(|node| self.sites[*node].gossip.is_some())
            .collect()
    }

    /// Turns a site on.
    pub fn start(&mut self, node: Node) {
        let now = self.now(node);
        self.starts += 1;
        let seed = Random::new(self.seed ^ (self.starts << 32)).number();
        let site = &mut self.sites[node];
        let (snapshot, clean) = site.disk.clone().unwrap_or_default();
        let start = Start {
            snapshot: Snapshot::decode(&snapshot).ok(),
            clean,
            holdings: site.holdings.clone(),
        };
        site.gossip = Some(Gossip::new(
            site.config.clone(),
            start,
            now,
            seed,
            &site.records,
        ));
        self.network.start(node);
        self.carry_out(node);
    }

    /// Turns a site off in an orderly way.
    pub fn stop(&mut self, node: Node) {
        if let Some(gossip) = self.sites[node].gossip.take() {
            self.sites[node].disk = Some((gossip.export(), true));
            self.network.stop(node);
        }
    }

    /// A site dies. What it knows of the mesh is as it was at the last export.
    pub fn crash(&mut self, node: Node, back_in: Option<Duration>) {
        if self.sites[node].gossip.take().is_some() {
            self.network.crash(node, back_in);
        }
    }

    /// Writes a field of an image, which is made if it is new there. Nothing happens if it is deleted there.
    pub fn write(&mut self, node: Node, id: Uuid, key: &str, value: Option<Value>) {
        self.change(node, id, |record, stamp| {
            record.set(key, value, stamp);
        });
    }

    /// Deletes an image that the site knows.
    pub fn delete(&mut self, node: Node, id: Uuid) {
        if self.sites[node].records.0.contains_key(&id) {
            self.change(node, id, Record::delete);
        }
    }

    fn change(&mut self, node: Node, id: Uuid, change: impl FnOnce(&mut Record, Stamp)) {
        let now = self.now(node);
        let site = &mut self.sites[node];
        let old = site.records.0.get(&id);
        if site.gossip.is_none() || old.is_some_and(|record| record.deleted.is_some()) {
            return;
        }
        if let Some(old) = old {
            // A site's clock is never behind what it has seen.
            site.clock.observe(old.latest(), now.unix_ms).ok();
        }
        let stamp = site.clock.tick(now.unix_ms);
        let record = site.records.0.entry(id);
        let record = record.or_insert_with(|| Record::new(id, stamp));
        change(record, stamp);
        match self.truth.get_mut(&id) {
            Some(truth) => {
                truth.merge(record.clone());
            }
            None => {
                self.truth.insert(id, record.clone());
            }
        }
        if let Some(gossip) = &mut site.gossip {
            gossip.handle_written(id, now, &site.records);
        }
        self.carry_out(node);
    }

    /// A site comes to hold something, or loses it.
    pub fn hold(&mut self, node: Node, manifest: ManifestId, holding: Holding) {
        let now = self.now(node);
        let site = &mut self.sites[node];
        if let Some(gossip) = &mut site.gossip {
            gossip.set_holding(manifest, &holding, now);
            match holding {
                Holding::None => site.holdings.remove(&manifest),
                holding => site.holdings.insert(manifest, holding),
            };
            self.carry_out(node);
        }
    }

    /// Cuts all connections between the two groups, or heals them.
    pub fn set_partition(&mut self, group: &BTreeSet<Node>, cut: bool) {
        for a in 0..self.sites.len() {
            for b in 0..a {
                if group.contains(&a) != group.contains(&b) {
                    self.network.set_cut(a, b, cut);
                }
            }
        }
    }

    /// A connection breaks: both ends hear of it.
    pub fn lose(&mut self, connection: Connection, ends: [Node; 2]) {
        self.network.hang_up(ends[0], connection);
        self.handle(Event::Disconnected {
            node: ends[0],
            connection,
        });
    }

    /// Records that were removed so long before the last contact are forgotten, as an owner may.
    pub fn forget_deleted(&mut self, node: Node) {
        let site = &mut self.sites[node];
        let contact_ms = site.gossip.as_ref().and_then(Gossip::last_contact_ms);
        let horizon_ms = contact_ms.unwrap_or(0).saturating_sub(MEMORY_MS);
        site.records.0.retain(|_, record| {
            record.prune(horizon_ms);
            record.deleted.is_none_or(|at| at.unix_ms() >= horizon_ms)
        });
    }

    /// A message that a member made up arrives at another over their connection. False if there is none.
    pub fn inject(&mut self, liar: Node, victim: Node, bytes: &[u8]) -> bool {
        let connection = self
            .network
            .connections()
            .find(|(_, ends)| *ends == [liar, victim] || *ends == [victim, liar])
            .map(|(connection, _)| connection);
        if let Some(connection) = connection {
            self.receive(victim, connection, bytes);
        }
        connection.is_some()
    }

    /// Runs for some time.
    pub fn run(&mut self, time: Duration) {
        let end = self.network.now() + time;
        let (mut instant, mut events) = (Duration::ZERO, 0);
        while let Some(event) = self.network.next(end) {
            events = if instant == self.network.now() {
                events + 1
            } else {
                0
            };
            instant = self.network.now();
            assert!(
                events < BURST_MAX,
                "time stands still at {instant:?}: {event:?}"
            );
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        let node = match &event {
            Event::Connected { node, .. }
            | Event::DialFailed { node, .. }
            | Event::Message { node, .. }
            | Event::Disconnected { node, .. }
            | Event::Wake { node, .. } => *node,
        };
        let now = self.now(node);
        let rtt = match &event {
            Event::Connected { peer, .. } => self.network.rtt(node, *peer),
            _ => Duration::ZERO,
        };
        let site = &mut self.sites[node];
        let Some(gossip) = &mut site.gossip else {
            return;
        };
        match event {
            Event::Connected {
                connection,
                peer,
                token,
                ..
            } => {
                let dialled = token.and_then(|token| site.dials.remove(&token));
                gossip.handle_connected(connection, &name(peer), dialled, now);
                gossip.handle_measured(connection, rtt, None, now);
            }
            Event::DialFailed { token, .. } => {
                if let Some(target) = site.dials.remove(&token) {
                    gossip.handle_dial_failed(target, now);
                }
            }
            Event::Message {
                connection, bytes, ..
            } => return self.receive(node, connection, &bytes),
            Event::Disconnected { connection, .. } => gossip.handle_disconnected(connection, now),
            Event::Wake { .. } => gossip.handle_timeout(now, &mut site.records),
        }
        self.carry_out(node);
    }

    fn receive(&mut self, node: Node, connection: Connection, bytes: &[u8]) {
        let now = self.now(node);
        let site = &mut self.sites[node];
        if let Some(gossip) = &mut site.gossip {
            gossip.handle_message(connection, bytes, now, &mut site.records);
            self.carry_out(node);
        }
    }

    fn carry_out(&mut self, node: Node) {
        let now = self.now(node);
        let site = &mut self.sites[node];
        let Some(gossip) = &mut site.gossip else {
            return;
        };
        while let Some(output) = gossip.poll() {
            match output {
                Output::Ready(connection) => {
                    let mut left = BURST_MAX;
                    while let Some(bytes) = gossip.poll_message(connection, now, &site.records) {
                        self.network.send(node, connection, bytes);
                        left -= 1;
                        assert!(left > 0, "{} sends without end", site.name);
                    }
                }
                Output::Dial { target, addresses } => {
                    let address = addresses.first().and_then(|address| address.parse().ok());
                    let token = site.next_dial;
                    site.next_dial += 1;
                    match address {
                        Some(peer) => {
                            site.dials.insert(token, target);
                            self.network.dial(node, peer, token);
                        }
                        None => gossip.handle_dial_failed(target, now),
                    }
                }
                Output::HangUp { connection, reason } => {
                    site.hung_up.push(reason);
                    self.network.hang_up(node, connection);
                }
                Output::Event(
                    Told::SiteUp(_)
                    | Told::SiteDown(_)
                    | Told::SiteChanged(_)
                    | Told::HoldingChanged(..)
                    | Told::RecordMerged(..),
                ) => {}
                Output::Event(event) => site.told.push(event),
            }
        }
        if site.exported + EXPORT_INTERVAL <= now.monotonic {
            site.exported = now.monotonic;
            site.disk = Some((gossip.export(), false));
        }
        let wake = gossip.poll_timeout();
        self.network.wake_at(node, wake);
    }
}
