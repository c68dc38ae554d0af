//! Who is known to hold what: what gossip would have told by now, without its messages.

use std::collections::BTreeSet;
use std::time::Duration;

use vitrail_proto::fetch::Have;
use vitrail_proto::random::{Random, mix};
use vitrail_proto::runs::Runs;

use super::Swarm;

/// The slowest of all sites hears of a change after this times the logarithm of their number: what `docs/GOSSIP.md` has
/// measured. The others hear at any time until then.
const SPREAD: f64 = 0.5;
/// Runs that are told of a part, the longest ones.
const RUNS_MAX: usize = 64;
/// Nearest neighbours that a site keeps a connection with, and others.
const NEAR: usize = 2;
const FAR: usize = 2;

/// What a site has told about an image, the newest last.
pub(super) struct Told {
    entries: Vec<(Option<Duration>, Have)>,
}

impl Told {
    /// Everybody knows from the start that it holds everything.
    pub(super) fn always() -> Self {
        Self {
            entries: vec![(None, Have::All)],
        }
    }
}

impl Swarm {
    /// A site tells all others what it has of an image.
    pub(super) fn announce(&mut self, site: usize, image: usize, have: Have) {
        let have = match have {
            Have::Part(runs) => Have::Part(runs.longest(RUNS_MAX)),
            Have::All => Have::All,
        };
        let told = self.told[image].entry(site).or_insert(Told {
            entries: Vec::new(),
        });
        told.entries.push((Some(self.now), have));
    }

    /// What a site has heard about another by now.
    fn heard(&self, at: usize, image: usize, of: usize) -> Option<&Have> {
        let entries = self.told[image].get(&of)?.entries.iter().enumerate();
        let spread = SPREAD * (self.network.sites.len() as f64).ln();
        let known = |(number, (told, _)): &(usize, &(Option<Duration>, Have))| {
            told.is_none_or(|told| {
                let place = mix((at as u64) << 40 | (of as u64) << 16 | *number as u64);
                let mut random = Random::new(self.seed ^ place);
                told + random.delay(Duration::from_secs_f64(spread)) <= self.now
            })
        };
        let newest = entries.rev().find(known);
        newest.map(|(_, (_, have))| have)
    }

    /// Holders of an image that a site knows, in the order in which the daemon asks them: those of its zone, those that have
    /// everything, the nearest of those that it is connected with; then by their numbers.
    pub(super) fn holders(&self, at: usize, image: usize) -> Vec<(usize, Have)> {
        let mut holders: Vec<_> = self.told[image]
            .keys()
            .filter(|holder| **holder != at)
            .filter_map(|&holder| {
                let have = self.heard(at, image, holder)?;
                let linked = self.links[at].contains(&holder);
                let rtt = linked.then(|| self.network.rtt(at, holder));
                let rtt = rtt.unwrap_or(Duration::MAX);
                let distance = self.network.distance(at, holder);
                let order = (distance, *have != Have::All, rtt, self.site_number(holder));
                Some((order, holder, have))
            })
            .collect();
        holders.sort_by_key(|(order, ..)| *order);
        let holders = holders.into_iter();
        holders
            .map(|(_, site, have)| (site, have.clone()))
            .collect()
    }

    /// As random as the hash of a name.
    fn site_number(&self, site: usize) -> u64 {
        mix(self.seed ^ site as u64)
    }

    /// Connects each site with the next in the order of numbers, the nearest ones, and some others.
    pub(super) fn connect_neighbours(&mut self) {
        let count = self.network.sites.len();
        let mut ring: Vec<usize> = (0..count).collect();
        ring.sort_by_key(|site| self.site_number(*site));
        for (place, &site) in ring.iter().enumerate() {
            let mut near: Vec<usize> = (0..count).filter(|other| *other != site).collect();
            near.sort_by_key(|&other| {
                let distance = self.network.distance(site, other);
                (distance, self.network.rtt(site, other), other)
            });
            near.truncate(NEAR);
            let far = (0..FAR).map(|_| self.random.below(count));
            let mut wanted: BTreeSet<usize> = near.into_iter().chain(far).collect();
            wanted.insert(ring[(place + 1) % count]);
            wanted.remove(&site);
            for other in wanted {
                self.connect(site, other);
            }
        }
    }

    pub(super) fn connect(&mut self, a: usize, b: usize) {
        self.links[a].insert(b);
        self.links[b].insert(a);
    }

    /// What a pull tells of an image of which it has a part.
    pub(super) fn announce_part(&mut self, site: usize, image: usize) {
        let runs: Runs = (*self.held(site, image)).clone();
        self.announce(site, image, Have::Part(runs));
    }
}
