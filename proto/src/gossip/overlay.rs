//! Whom to be connected with: the ring's next, two near, two elsewhere; and when to dial again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::entry::{HalfOctave, SiteNumber};
use super::state::State;
use crate::random::{Random, mix};

const NEAR: usize = 2;
const FAR: usize = 2;
/// Most connections that others dialled. A seed is left after [`EXCESS_KEPT`], so some 6 sites a second can join over it.
pub const INBOUND_MAX: usize = 64;
/// How long a random connection is kept before another takes its place: the round trips of more and more sites are
/// learnt, and the near ones get nearer. A connection costs 4 to 16 kB: 1 to 4 bytes/s.
const FAR_KEPT: Duration = Duration::from_secs(3600);
/// A connection that this site dialled and does not need is kept so long: enough to be told everything.
const EXCESS_KEPT: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(600);
/// The share of an outage after which it is looked whether it is over.
const RETRY_SHARE: u32 = 16;
/// Most sites that are dialled again and again.
const OUTAGES_MAX: usize = 32;
/// How often some site that is down is tried.
const PROBE_INTERVAL: Duration = Duration::from_secs(600);
/// A dial without an outcome counts as failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long changes are gathered before connections are looked at.
const PLAN_DELAY: Duration = Duration::from_millis(500);
const PLAN_INTERVAL: Duration = Duration::from_secs(60);

/// What is dialled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// An address from the configuration; whose it is shows the certificate.
    Seed(String),
    /// A site.
    Site(SiteNumber),
}

#[derive(Debug)]
pub(super) struct Overlay {
    own: SiteNumber,
    zone: String,
    seeds: Vec<String>,
    far: Vec<(SiteNumber, Duration)>,
    dials: BTreeMap<Target, Dial>,
    outages: BTreeMap<Target, Outage>,
    /// Of all sites that ever were neighbours.
    rtts: BTreeMap<SiteNumber, HalfOctave>,
    plan_at: Duration,
    probe_at: Duration,
}

#[derive(Debug)]
struct Dial {
    until: Duration,
    /// A try whose failure is no news.
    probe: bool,
}

#[derive(Debug)]
struct Outage {
    since: Duration,
    next: Duration,
}

/// A neighbour as the overlay sees it.
pub(super) struct Connected {
    pub(super) site: SiteNumber,
    pub(super) dialled: bool,
    pub(super) since: Duration,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) dial: Vec<Target>,
    pub(super) hang_up: Vec<SiteNumber>,
}

impl Overlay {
    pub(super) fn new(own: SiteNumber, zone: String, seeds: Vec<String>, now: Duration) -> Self {
        Self {
            own,
            zone,
            seeds,
            far: Vec::new(),
            dials: BTreeMap::new(),
            outages: BTreeMap::new(),
            rtts: BTreeMap::new(),
            plan_at: now,
            probe_at: now + PROBE_INTERVAL,
        }
    }

    /// Something changed.
    pub(super) fn touch(&mut self, now: Duration) {
        self.plan_at = self.plan_at.min(now + PLAN_DELAY);
    }

    pub(super) fn next_at(&self) -> Duration {
        let outages = self
            .outages
            .iter()
            .filter(|(target, _)| !self.dials.contains_key(target))
            .map(|(_, outage)| outage.next);
        let dials = self.dials.values().map(|dial| dial.until);
        outages.chain(dials).fold(self.plan_at, Duration::min)
    }

    pub(super) fn connected(&mut self, site: SiteNumber, dialled: Option<&Target>, now: Duration) {
        self.outages.remove(&Target::Site(site));
        if let Some(target) = dialled {
            self.dials.remove(target);
            self.outages.remove(target);
        }
        self.touch(now);
    }

    /// A connection that we dialled was lost, or could not be made.
    pub(super) fn failed(&mut self, target: Target, now: Duration, random: &mut Random) {
        if self.dials.remove(&target).is_some_and(|dial| dial.probe) {
            return;
        }
        if !self.outages.contains_key(&target) && self.outages.len() >= OUTAGES_MAX {
            let oldest = self.outages.iter().min_by_key(|(_, outage)| outage.since);
            if let Some(oldest) = oldest.map(|(target, _)| target.clone()) {
                self.outages.remove(&oldest);
            }
        }
        let outage = self.outages.entry(target).or_insert(Outage {
            since: now,
            next: now,
        });
        let wait = (now - outage.since) / RETRY_SHARE;
        outage.next = now + random.around(wait.clamp(RETRY_MIN, RETRY_MAX));
        self.touch(now);
    }

    pub(super) fn measured(&mut self, site: SiteNumber, rtt_us: HalfOctave) {
        self.rtts.insert(site, rtt_us);
    }

    /// The round trip to a site in microseconds, if there is or was a connection.
    pub(super) fn rtt_us(&self, site: SiteNumber) -> Option<u64> {
        self.rtts.get(&site).and_then(|rtt| rtt.value())
    }

    /// A site is no longer known.
    pub(super) fn forget(&mut self, site: SiteNumber) {
        self.rtts.remove(&site);
        self.outages.remove(&Target::Site(site));
    }

    /// Looks at connections and outages.
    pub(super) fn plan(
        &mut self,
        neighbours: &[Connected],
        state: &State,
        up: &BTreeSet<SiteNumber>,
        now: Duration,
        random: &mut Random,
    ) -> Plan {
        let overdue: Vec<Target> = self
            .dials
            .iter()
            .filter(|(_, dial)| dial.until <= now)
            .map(|(target, _)| target.clone())
            .collect();
        for target in overdue {
            self.failed(target, now, random);
        }
        self.plan_at = now + random.around(PLAN_INTERVAL);

        let mut plan = Plan::default();
        let connected: BTreeSet<SiteNumber> = neighbours.iter().map(|n| n.site).collect();
        self.outages.retain(|target, _| match target {
            // Seeds are for those who have nobody.
            Target::Seed(_) => connected.is_empty(),
            Target::Site(site) => !connected.contains(site),
        });
        let candidates: Vec<(SiteNumber, bool)> = state
            .sites()
            .filter(|log| log.site != self.own)
            .filter(|log| {
                connected.contains(&log.site)
                    || ((connected.is_empty() || up.contains(&log.site))
                        && !log.info.addresses.is_empty()
                        && !self.outages.contains_key(&Target::Site(log.site)))
            })
            .map(|log| (log.site, log.info.zone == self.zone))
            .collect();

        let mut wanted = self.ring_and_near(&candidates);
        self.choose_far(&wanted, &candidates, &connected, now, random);
        wanted.extend(self.far.iter().map(|(site, _)| *site));

        for neighbour in neighbours {
            let kept = wanted.contains(&neighbour.site)
                || !neighbour.dialled
                || now - neighbour.since < EXCESS_KEPT;
            if !kept {
                plan.hang_up.push(neighbour.site);
            }
        }
        let mut dial: BTreeSet<Target> = wanted
            .iter()
            .filter(|site| !connected.contains(site))
            .map(|site| Target::Site(*site))
            .collect();
        if connected.is_empty() {
            let rested =
                |seed: &&String| !self.outages.contains_key(&Target::Seed((*seed).clone()));
            dial.extend(self.seeds.iter().filter(rested).cloned().map(Target::Seed));
        }
        let due = self.outages.iter().filter(|(_, outage)| outage.next <= now);
        dial.extend(due.map(|(target, _)| target.clone()));
        for target in dial {
            self.dial(target, false, now, &mut plan);
        }
        self.probe(state, up, &connected, now, random, &mut plan);
        plan
    }

    fn ring_and_near(&self, candidates: &[(SiteNumber, bool)]) -> BTreeSet<SiteNumber> {
        let mut wanted = BTreeSet::new();
        // Candidates are in the order of the ring.
        let after = candidates.partition_point(|(site, _)| *site < self.own);
        let successor = candidates.get(after).or(candidates.first());
        wanted.extend(successor.map(|(site, _)| *site));
        let mut near: Vec<_> = candidates
            .iter()
            .filter(|(site, _)| !wanted.contains(site))
            .map(|(site, same_zone)| {
                let rtt_us = self.rtts.get(site).and_then(|rtt| rtt.value());
                // Among the unknown every site has its own favourites.
                (
                    !same_zone,
                    rtt_us.unwrap_or(u64::MAX),
                    mix(site ^ self.own),
                    *site,
                )
            })
            .collect();
        near.sort_unstable();
        wanted.extend(near.iter().take(NEAR).map(|(.., site)| *site));
        wanted
    }

    /// Connections elsewhere count whoever dialled them; chosen are as many as lack.
    fn choose_far(
        &mut self,
        wanted: &BTreeSet<SiteNumber>,
        candidates: &[(SiteNumber, bool)],
        connected: &BTreeSet<SiteNumber>,
        now: Duration,
        random: &mut Random,
    ) {
        self.far.retain(|(site, since)| {
            now - *since < FAR_KEPT
                && !wanted.contains(site)
                && candidates.binary_search_by_key(site, |(c, _)| *c).is_ok()
        });
        let chosen: BTreeSet<SiteNumber> = self.far.iter().map(|(site, _)| *site).collect();
        let others = connected
            .iter()
            .filter(|site| !wanted.contains(site) && !chosen.contains(site))
            .count();
        let mut free: Vec<SiteNumber> = candidates
            .iter()
            .map(|(site, _)| *site)
            .filter(|s| !wanted.contains(s) && !chosen.contains(s) && !connected.contains(s))
            .collect();
        for _ in (chosen.len() + others)..FAR {
            if free.is_empty() {
                break;
            }
            let site = free.swap_remove(random.below(free.len()));
            self.far.push((site, now));
        }
    }

    fn probe(
        &mut self,
        state: &State,
        up: &BTreeSet<SiteNumber>,
        connected: &BTreeSet<SiteNumber>,
        now: Duration,
        random: &mut Random,
        plan: &mut Plan,
    ) {
        if now < self.probe_at {
            return;
        }
        self.probe_at = now + random.around(PROBE_INTERVAL);
        let down: Vec<SiteNumber> = state
            .sites()
            .map(|log| log.site)
            .filter(|s| *s != self.own && !up.contains(s) && !connected.contains(s))
            .collect();
        if let Some(site) = down.get(random.below(down.len())) {
            self.dial(Target::Site(*site), true, now, plan);
        }
    }

    fn dial(&mut self, target: Target, probe: bool, now: Duration, plan: &mut Plan) {
        if self.dials.contains_key(&target) {
            return;
        }
        let until = now + DIAL_TIMEOUT;
        self.dials.insert(target.clone(), Dial { until, probe });
        plan.dial.push(target);
    }
}
