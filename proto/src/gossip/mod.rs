//! How sites know of each other: the state machine that keeps their copies of the catalogue, and of what every site
//! says about itself, equal. `docs/GOSSIP.md` is the page: terms, rules, costs, threats, messages.
//!
//! No sockets, clocks or threads: the owner makes connections, moves bytes, and tells the time.
//! 1. Tell it what happens: [`Gossip::handle_connected`], [`Gossip::handle_message`] and so on.
//! 2. Then [`Gossip::poll`] until it is empty, and carry out each [`Output`]. For a connection that is ready call
//!    [`Gossip::poll_message`] whenever its stream can take a message, until there is none.
//! 3. Wake up at [`Gossip::poll_timeout`] and call [`Gossip::handle_timeout`].
//!
//! Invariant: for every log, each write up to the log's version is reflected here, by itself or by a later write that
//! replaced it. A version is raised only after everything below it was taken in.

mod entry;
mod greet;
mod interface;
mod message;
mod neighbour;
mod overlay;
mod own;
mod reach;
mod receive;
mod returning;
mod send;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::clock::site_number;
use crate::id::ManifestId;
use crate::random::Random;
pub use entry::{Family, HalfOctave, Holding, Info, Key, Link, LogId, SiteNumber};
pub use interface::{
    Catalogue, CatalogueFailed, Config, ConnectionId, Event, Now, Output, Site, Start,
};
pub use message::{
    BUCKETS, Digest, Hello, LogState, MESSAGE_LEN_MAX, Message, Part, PartEntry, VERSION,
};
use neighbour::Neighbour;
use overlay::{Connected, Overlay};
pub use overlay::{INBOUND_MAX, Target};
use own::Own;
use returning::Standing;
pub use snapshot::Snapshot;
pub use state::MEMORY_MS;
use state::State;

/// How often a neighbour is asked whether it is equal.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(60);
/// The same, while this site does not yet have all that the mesh has.
const SETTLE_INTERVAL: Duration = Duration::from_secs(2);
/// How long changes of links are gathered before reachability is looked at.
const REACH_DELAY: Duration = Duration::from_secs(1);
/// How often expired logs are looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);

/// One site's knowledge of the mesh.
///
/// Memory: some 130 bytes an entry (1,000 sites with 100 images each: 15 MB), bounded as `docs/GOSSIP.md` says, and
/// for each connection two numbers for each log in which the two differ.
#[derive(Debug)]
pub struct Gossip {
    config: Config,
    own: Own,
    state: State,
    neighbours: BTreeMap<ConnectionId, Neighbour>,
    overlay: Overlay,
    up: BTreeSet<SiteNumber>,
    /// Logs in which a neighbour is ahead, and when it is asked for them.
    missing: BTreeMap<LogId, Duration>,
    standing: Standing,
    /// Milliseconds since 1970 of the last message, while settled.
    last_contact_ms: Option<u64>,
    reconcile_at: Duration,
    reach_at: Option<Duration>,
    forget_at: Duration,
    /// Parts that there was no room for.
    refused: u64,
    random: Random,
    outputs: VecDeque<Output>,
}

impl Gossip {
    /// A site as it starts. Equal seeds and inputs make equal decisions.
    pub fn new(
        config: Config,
        start: Start,
        now: Now,
        seed: u64,
        catalogue: &dyn Catalogue,
    ) -> Self {
        let mut random = Random::new(seed);
        let number = site_number(&config.name);
        let snapshot = start.snapshot.unwrap_or_default();
        let own = Own::new(number, snapshot.boot, now, random.number());
        let overlay = Overlay::new(
            number,
            config.zone.clone(),
            config.seeds.clone(),
            now.monotonic,
        );
        let mut gossip = Self {
            standing: Standing::at_start(config.seeds.is_empty(), &snapshot),
            config,
            own,
            state: State::default(),
            neighbours: BTreeMap::new(),
            overlay,
            up: BTreeSet::new(),
            missing: BTreeMap::new(),
            last_contact_ms: snapshot.last_contact_ms,
            reconcile_at: now.monotonic + random.around(RECONCILE_INTERVAL),
            reach_at: None,
            forget_at: now.monotonic,
            refused: 0,
            random,
            outputs: VecDeque::new(),
        };
        gossip.restore(snapshot, start.clean, start.holdings, now, catalogue);
        gossip
    }

    /// This site's number.
    pub fn number(&self) -> SiteNumber {
        self.own.number
    }

    /// A connection with the site of this (proven) name stands. `dialled` is what it was dialled as, none if the other
    /// end dialled.
    pub fn handle_connected(
        &mut self,
        connection: ConnectionId,
        name: &str,
        dialled: Option<Target>,
        now: Now,
    ) {
        let site = site_number(name);
        let inbound = self
            .neighbours
            .values()
            .filter(|n| n.dialled.is_none())
            .count();
        self.overlay
            .connected(site, dialled.as_ref(), now.monotonic);
        if self.own.outranked || (dialled.is_none() && inbound >= INBOUND_MAX) {
            let reason = format!("{} takes no more connections", self.config.name);
            self.outputs
                .push_back(Output::HangUp { connection, reason });
            return;
        }
        let neighbour = Neighbour::new(site, name.to_owned(), dialled, now.monotonic);
        self.neighbours.insert(connection, neighbour);
        self.announce(connection, now);
    }

    /// A connection is gone.
    pub fn handle_disconnected(&mut self, connection: ConnectionId, now: Now) {
        if let Some(neighbour) = self.neighbours.remove(&connection) {
            self.lost(&neighbour, now);
            let alone = self.connection_with(neighbour.site).is_none();
            if let Some(dialled) = neighbour.dialled.filter(|_| alone) {
                // Once its addresses are known, a seed is a site like any other.
                let target = match self.state.site(neighbour.site) {
                    Some(log) => Target::Site(log.site),
                    None => dialled,
                };
                self.overlay.failed(target, now.monotonic, &mut self.random);
            }
        }
    }

    /// A dial came to nothing.
    pub fn handle_dial_failed(&mut self, target: Target, now: Now) {
        self.overlay.failed(target, now.monotonic, &mut self.random);
    }

    /// What was measured on a connection: its round trip, and how many bytes per second arrived while there was
    /// something to receive. Told to others when it changes by more than a half octave.
    pub fn handle_measured(
        &mut self,
        connection: ConnectionId,
        rtt: Duration,
        goodput: Option<u64>,
        now: Now,
    ) {
        let Some(neighbour) = self.neighbours.get_mut(&connection) else {
            return;
        };
        let rtt_us = HalfOctave::of(rtt.as_micros().try_into().unwrap_or(u64::MAX));
        let goodput = goodput.map_or(neighbour.goodput, HalfOctave::of);
        if neighbour.rtt_us.differs(rtt_us) || neighbour.goodput.differs(goodput) {
            (neighbour.rtt_us, neighbour.goodput) = (rtt_us, goodput);
            self.overlay.measured(neighbour.site, rtt_us);
            self.own.estimates_changed(now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now, catalogue: &mut dyn Catalogue) {
        if self.own.outranked {
            return;
        }
        self.tell_what_is_due(now, catalogue);
        self.ask_for_missing(now);
        self.wait_for_settled(now, catalogue);
        if self.reconcile_at <= now.monotonic {
            let interval = match self.standing {
                Standing::Settled => RECONCILE_INTERVAL,
                _ => SETTLE_INTERVAL,
            };
            self.reconcile_at = now.monotonic + self.random.around(interval);
            self.reconcile_with_one(now);
        }
        if self.reach_at.is_some_and(|at| at <= now.monotonic) {
            self.look_who_is_up(now);
        }
        if self.forget_at <= now.monotonic {
            self.forget_at = now.monotonic + FORGET_INTERVAL;
            self.forget(now);
        }
        if self.overlay.next_at() <= now.monotonic {
            self.plan_connections(now);
        }
        let connections: Vec<ConnectionId> = self.neighbours.keys().copied().collect();
        for connection in connections {
            self.announce(connection, now);
        }
    }

    /// When [`Self::handle_timeout`] is to be called, by the monotonic clock.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.own.outranked {
            return None;
        }
        let pushes = self
            .neighbours
            .values()
            .filter(|n| !n.ready && n.is_greeted())
            .filter_map(|n| n.push_at);
        pushes
            .chain(self.missing.values().copied())
            .chain(self.reach_at)
            .chain(self.own.next_at())
            .chain(self.standing.next_at())
            .chain([self.reconcile_at, self.forget_at, self.overlay.next_at()])
            .min()
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The sites that are known, in the order of numbers; this one too.
    pub fn sites(&self) -> Vec<Site> {
        self.state
            .sites()
            .map(|log| Site {
                number: log.site,
                info: log.info.clone(),
                up: log.site == self.own.number || self.up.contains(&log.site),
                rtt_us: self.overlay.rtt_us(log.site),
                links: log.links.to_vec(),
            })
            .collect()
    }

    /// Whether a site is up.
    pub fn is_up(&self, site: SiteNumber) -> bool {
        site == self.own.number || self.up.contains(&site)
    }

    /// Who says to hold something of a manifest, this site included, in the order of numbers. Sites that are down too.
    pub fn holders(&self, manifest: &ManifestId) -> Vec<(SiteNumber, Holding)> {
        let key = Key::Holding(*manifest);
        self.state
            .sites()
            .filter_map(|log| {
                let (_, value) = self.state.get(site_log(log.site), &key)?;
                match Holding::decode(value) {
                    Ok(Holding::None) | Err(_) => None,
                    Ok(holding) => Some((log.site, holding)),
                }
            })
            .collect()
    }

    /// Names of the sites that say to hold all of a manifest, this site included, in the order of numbers. Sites that are
    /// down too.
    pub fn complete_holders(&self, manifest: &ManifestId) -> Vec<String> {
        let key = Key::Holding(*manifest);
        self.state
            .sites()
            .filter(|log| {
                let entry = self.state.get(site_log(log.site), &key);
                entry.is_some_and(|(_, value)| {
                    matches!(Holding::decode(value), Ok(Holding::Complete))
                })
            })
            .map(|log| log.info.name.clone())
            .collect()
    }

    /// What a site says to hold.
    pub fn holdings(&self, site: SiteNumber) -> BTreeMap<ManifestId, Holding> {
        self.state
            .entries_after(site_log(site), 0)
            .filter_map(|(_, key, value)| match key {
                Key::Holding(manifest) => Some((*manifest, Holding::decode(value).ok()?)),
                _ => None,
            })
            .filter(|(_, holding)| *holding != Holding::None)
            .collect()
    }

    /// The sites that there are connections with.
    pub fn neighbours(&self) -> impl Iterator<Item = SiteNumber> + '_ {
        self.neighbours
            .values()
            .filter(|n| n.is_greeted())
            .map(|n| n.site)
    }

    /// Whether this site has all that the mesh had when it came.
    pub fn is_settled(&self) -> bool {
        matches!(self.standing, Standing::Settled)
    }

    /// The time of the last message from the mesh, in milliseconds since 1970. What was removed is to be remembered for
    /// [`MEMORY_MS`] before this.
    pub fn last_contact_ms(&self) -> Option<u64> {
        self.last_contact_ms
    }

    /// How often something was not taken in because there was no room for it.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Bytes that are kept of sites.
    pub fn memory(&self) -> usize {
        self.state.bytes()
    }

    fn connection_with(&self, site: SiteNumber) -> Option<ConnectionId> {
        self.neighbours
            .iter()
            .find(|(_, n)| n.site == site && n.is_greeted())
            .map(|(connection, _)| *connection)
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Tells the owner that there is something to send, once.
    fn announce(&mut self, connection: ConnectionId, now: Now) {
        if let Some(neighbour) = self.neighbours.get_mut(&connection)
            && !neighbour.ready
            && neighbour.has_message(now.monotonic)
        {
            neighbour.ready = true;
            self.outputs.push_back(Output::Ready(connection));
        }
    }

    fn hang_up(&mut self, connection: ConnectionId, reason: String, now: Now) {
        if let Some(neighbour) = self.neighbours.remove(&connection) {
            self.outputs
                .push_back(Output::HangUp { connection, reason });
            self.lost(&neighbour, now);
        }
    }

    fn lost(&mut self, neighbour: &Neighbour, now: Now) {
        for log in neighbour.ahead_in() {
            self.missing.insert(log, now.monotonic);
        }
        if neighbour.is_greeted() {
            self.links_changed(now);
        }
    }

    /// The set of neighbours, or what sites tell of theirs, changed.
    fn links_changed(&mut self, now: Now) {
        self.own.links_changed(now);
        self.reach_changed(now);
        self.overlay.touch(now.monotonic);
    }

    fn reach_changed(&mut self, now: Now) {
        self.reach_at.get_or_insert(now.monotonic + REACH_DELAY);
    }

    fn reconcile_with_one(&mut self, now: Now) {
        let greeted: Vec<ConnectionId> = self
            .neighbours
            .iter()
            .filter(|(_, n)| n.is_greeted())
            .map(|(connection, _)| *connection)
            .collect();
        if greeted.is_empty() {
            return;
        }
        let connection = greeted[self.random.below(greeted.len())];
        if let Some(neighbour) = self.neighbours.get_mut(&connection) {
            neighbour.due.digest = true;
        }
        self.announce(connection, now);
    }

    fn look_who_is_up(&mut self, now: Now) {
        self.reach_at = None;
        let neighbours: Vec<SiteNumber> = self.neighbours().collect();
        let up = reach::reachable(&self.state, self.own.number, neighbours.into_iter());
        if up == self.up {
            return;
        }
        let before = std::mem::replace(&mut self.up, up);
        for site in before.difference(&self.up) {
            self.outputs
                .push_back(Output::Event(Event::SiteDown(*site)));
        }
        for site in self.up.difference(&before) {
            self.outputs.push_back(Output::Event(Event::SiteUp(*site)));
        }
        self.overlay.touch(now.monotonic);
    }

    fn forget(&mut self, now: Now) {
        let forgotten = self.state.forget(self.own.number, now.unix_ms);
        if !forgotten.is_empty() {
            self.reach_changed(now);
        }
        for site in forgotten {
            self.overlay.forget(site);
            for neighbour in self.neighbours.values_mut() {
                neighbour.forget(site_log(site));
            }
        }
    }

    fn plan_connections(&mut self, now: Now) {
        let connected: Vec<Connected> = self
            .neighbours
            .values()
            .map(|n| Connected {
                site: n.site,
                dialled: n.dialled.is_some(),
                since: n.since,
            })
            .collect();
        let plan = self.overlay.plan(
            &connected,
            &self.state,
            &self.up,
            now.monotonic,
            &mut self.random,
        );
        for target in plan.dial {
            let addresses = match &target {
                Target::Seed(address) => vec![address.clone()],
                Target::Site(site) => self
                    .state
                    .site(*site)
                    .map_or(Vec::new(), |log| log.info.addresses.clone()),
            };
            self.outputs.push_back(Output::Dial { target, addresses });
        }
        for site in plan.hang_up {
            if let Some(connection) = self.connection_with(site) {
                let reason = format!("{} has nearer neighbours", self.config.name);
                self.hang_up(connection, reason, now);
            }
        }
    }
}

fn site_log(site: SiteNumber) -> LogId {
    LogId {
        site,
        family: Family::Site,
    }
}

fn image_log(site: SiteNumber) -> LogId {
    LogId {
        site,
        family: Family::Images,
    }
}
