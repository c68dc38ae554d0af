//! Histories of writes and mishaps, drawn from a seed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use uuid::Uuid;
use vitrail_proto::gossip::{Family, Holding, Key, LogId, Message, Part, PartEntry};
use vitrail_proto::id::ManifestId;
use vitrail_proto::random::Random;
use vitrail_proto::record::Value;
use vitrail_proto::runs::Runs;

use crate::mesh::{Mesh, Options, number};
use crate::network::Node;

/// How long things happen.
const TROUBLE: Duration = Duration::from_secs(240);
/// How long the sites then have to become equal: a lie lives until its site reconciles with somebody who believes it.
const QUIET: Duration = Duration::from_secs(900);
const IMAGES: u128 = 12;
const MANIFESTS: usize = 8;

/// Seeds to run: `VITRAIL_SIM_SEED=n` alone, or the first `VITRAIL_SIM_SEEDS`, or the first `usually`.
pub fn seeds(usually: u64) -> Range<u64> {
    let number = |variable: &str| std::env::var(variable).ok()?.parse().ok();
    match number("VITRAIL_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VITRAIL_SIM_SEEDS").unwrap_or(usually),
    }
}

/// Runs a history of trouble and then lets the sites come to rest, all on and all connected.
pub fn run(seed: u64) -> Mesh {
    let mut random = Random::new(seed ^ 0xfa17);
    let options = Options {
        sites: 2 + random.below(9),
        zone_size: 1 + random.below(4),
        near: Duration::from_millis(1 + random.below(10) as u64),
        far: Duration::from_millis(20 + random.below(280) as u64),
        uplink: random.pick(&[25_000, 250_000, 12_500_000]),
        skew: Duration::from_secs(random.pick(&[0, 1, 120])),
        seed,
    };
    let mut mesh = Mesh::new(&options);
    let nodes = options.sites;
    let mut trouble = Trouble {
        lies: random.once_in(3),
        random,
        group: BTreeSet::new(),
    };
    mesh.start(0);
    for node in 1..nodes {
        let pause = trouble.random.delay(Duration::from_secs(5));
        mesh.run(pause);
        mesh.start(node);
    }
    let end = mesh.network.now() + TROUBLE;
    while mesh.network.now() < end {
        let pause = trouble.random.delay(Duration::from_secs(3));
        mesh.run(pause);
        trouble.strike(&mut mesh);
    }
    mesh.set_partition(&trouble.group, false);
    for node in 0..nodes {
        if mesh.sites[node].gossip.is_none() {
            mesh.start(node);
        }
    }
    mesh.run(QUIET);
    mesh
}

struct Trouble {
    random: Random,
    lies: bool,
    /// The sites that are cut off from the others.
    group: BTreeSet<Node>,
}

impl Trouble {
    fn strike(&mut self, mesh: &mut Mesh) {
        let node = self.random.below(mesh.sites.len());
        match self.random.below(20) {
            0..=7 => self.write(mesh, node),
            8..=12 => self.hold(mesh, node),
            13 => self.switch(mesh, node),
            14 => self.partition(mesh),
            15..=16 => self.lose_connection(mesh),
            17.. if self.lies => self.lie(mesh, node),
            _ => {}
        }
    }

    fn write(&mut self, mesh: &mut Mesh, node: Node) {
        // Few ids, so that sites meet in them, also by making one twice.
        let id = Uuid::from_u128(self.random.below(IMAGES as usize) as u128);
        let key = self.random.pick(&["name", "p:os", "t:gold", "data"]);
        match self.random.below(8) {
            0 => mesh.delete(node, id),
            1 => mesh.write(node, id, key, None),
            _ => {
                let value = Value::Int(self.random.number());
                mesh.write(node, id, key, Some(value));
            }
        }
    }

    fn hold(&mut self, mesh: &mut Mesh, node: Node) {
        let manifest = self.manifest();
        let holding = match self.random.below(3) {
            0 => Holding::None,
            1 => {
                let start = self.random.below(100) as u32;
                Holding::Part(Runs::of(start..start + 50))
            }
            _ => Holding::Complete,
        };
        mesh.hold(node, manifest, holding);
    }

    fn manifest(&mut self) -> ManifestId {
        ManifestId::of(&[self.random.below(MANIFESTS) as u8])
    }

    fn switch(&mut self, mesh: &mut Mesh, node: Node) {
        if mesh.sites[node].gossip.is_none() {
            mesh.start(node);
        } else if self.random.once_in(3) {
            mesh.stop(node);
        } else {
            mesh.crash(node, None);
            // Pulled or evicted, and then the power failed before anybody was told.
            let manifest = self.manifest();
            let holdings = &mut mesh.sites[node].holdings;
            if self.random.once_in(2) {
                holdings.insert(manifest, Holding::Complete);
            } else {
                holdings.remove(&manifest);
            }
        }
    }

    fn partition(&mut self, mesh: &mut Mesh) {
        let heals = !self.group.is_empty();
        if !heals {
            self.group = (0..mesh.sites.len())
                .filter(|_| self.random.once_in(2))
                .collect();
        }
        mesh.set_partition(&self.group, !heals);
        if heals {
            self.group.clear();
        }
    }

    fn lose_connection(&mut self, mesh: &mut Mesh) {
        let all: Vec<_> = mesh.network.connections().collect();
        if !all.is_empty() {
            let (connection, ends) = all[self.random.below(all.len())];
            mesh.lose(connection, ends);
        }
    }

    /// A member tells a neighbour something of a third site's logs.
    fn lie(&mut self, mesh: &mut Mesh, liar: Node) {
        let victim = self.random.below(mesh.sites.len());
        let about = self.random.below(mesh.sites.len());
        if victim == liar || mesh.sites[victim].gossip.is_none() {
            return;
        }
        let now_version = mesh.now(victim).unix_ms << 16;
        let step = Duration::from_secs(self.random.below(600) as u64).as_millis() as u64;
        let to = now_version + (240_000 << 16) - (step << 16);
        let family = self
            .random
            .pick(&[Family::Site, Family::Site, Family::Images]);
        let (key, value) = match family {
            Family::Site => (
                Key::Holding(self.manifest()),
                vec![2 * self.random.below(2) as u8],
            ),
            Family::Images => (
                Key::Image(Uuid::from_u128(self.random.below(IMAGES as usize) as u128)),
                vec![],
            ),
        };
        let entry = PartEntry {
            key,
            version: to - self.random.below(2) as u64,
            value,
        };
        let part = Part {
            log: LogId {
                site: number(about),
                family,
            },
            from: 0,
            to,
            entries: if self.random.once_in(3) {
                vec![]
            } else {
                vec![entry]
            },
        };
        mesh.inject(liar, victim, &Message::Delta(vec![part]).encode());
    }
}
