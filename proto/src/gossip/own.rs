//! What this site tells: versions, info, links, holdings, image records, and telling anew.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::entry::{Holding, Info, Key, Link, SiteNumber, encode_links, is_none};
use super::message::PartEntry;
use super::state::version_ms;
use super::{Catalogue, ConnectionId, Event, Gossip, LogId, Now, image_log, site_log};
use crate::clock::{AHEAD_MAX_MS, Stamp};
use crate::id::ManifestId;

/// How long changes of neighbours are gathered.
const LINKS_DELAY: Duration = Duration::from_secs(2);
/// How long changes of estimates are gathered.
const ESTIMATES_DELAY: Duration = Duration::from_secs(600);
/// How often the info is told though nothing changed, so that nobody takes the site for gone: 7 days.
const REFRESH_INTERVAL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often at most everything is told anew because others know things that we did not say.
const ANEW_INTERVAL: Duration = Duration::from_secs(60);
/// How often at most it is looked for a daemon with our name.
const SUSPECT_INTERVAL: Duration = Duration::from_secs(10);
/// Entries go out after at most this.
const PUSH_DELAY: Duration = Duration::from_millis(100);
/// Versions go out after this.
const TELL_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Own {
    pub(super) number: SiteNumber,
    pub(super) boot: u64,
    /// A later start of a daemon with this name is in the mesh.
    pub(super) outranked: bool,
    /// The last version used or heard of.
    last: u64,
    since: u64,
    /// The latest own stamp of each record when it was last told.
    pub(super) told: BTreeMap<Uuid, Stamp>,
    links_at: Option<Duration>,
    anew_at: Option<Duration>,
    /// When it was last said that there may be a rival.
    suspected: Option<Duration>,
    /// When everything was told anew last because of a dispute.
    renewed: Option<Duration>,
    refresh_at: Duration,
}

impl Own {
    pub(super) fn new(number: SiteNumber, last_boot: u64, now: Now, random: u64) -> Self {
        Self {
            number,
            boot: ((now.unix_ms << 16) | (random & 0xffff)).max(last_boot + 1),
            outranked: false,
            last: 0,
            since: 0,
            told: BTreeMap::new(),
            links_at: None,
            anew_at: None,
            suspected: None,
            renewed: None,
            refresh_at: now.monotonic,
        }
    }

    pub(super) fn links_changed(&mut self, now: Now) {
        self.links_at = Some(now.monotonic + LINKS_DELAY);
    }

    pub(super) fn estimates_changed(&mut self, now: Now) {
        self.links_at.get_or_insert(now.monotonic + ESTIMATES_DELAY);
    }

    pub(super) fn next_at(&self) -> impl Iterator<Item = Duration> {
        [self.links_at, self.anew_at, Some(self.refresh_at)]
            .into_iter()
            .flatten()
    }

    /// Whether everybody will drop entries of our site log with this version.
    pub(super) fn is_void(&self, version: u64) -> bool {
        version < self.since
    }

    /// A version of ours that somebody has; ours will be higher.
    pub(super) fn observe(&mut self, version: u64) {
        self.last = self.last.max(version);
    }

    fn next_version(&self, now: Now) -> u64 {
        (self.last + 1).max(now.unix_ms << 16)
    }
}

impl Gossip {
    /// This site holds this of a manifest. Tells whether that is news; nothing happens if it is not.
    pub fn set_holding(&mut self, manifest: ManifestId, holding: &Holding, now: Now) -> bool {
        let key = Key::Holding(manifest);
        let value = holding.encode();
        let old = self.state.get(site_log(self.own.number), &key);
        let told = old.map_or(is_none(&key, &value), |(_, old)| old == value);
        if !told {
            self.tell(key, value, now);
        }
        !told
    }

    /// This site wrote to a record, and the catalogue has it.
    pub fn handle_written(&mut self, id: Uuid, now: Now, catalogue: &dyn Catalogue) {
        // Otherwise it is told at the end of the return.
        if !self.is_returning() {
            self.tell_record(id, now, catalogue);
        }
    }

    /// The addresses at which this site is reached changed.
    pub fn set_addresses(&mut self, addresses: Vec<String>, now: Now) {
        if addresses != self.config.addresses {
            self.config.addresses = addresses;
            self.tell_info(now);
        }
    }

    /// Tells a record if this site wrote to it since it told it last.
    fn tell_record(&mut self, id: Uuid, now: Now, catalogue: &dyn Catalogue) {
        let record = catalogue.record(id);
        if let Some(stamp) = record.and_then(|record| record.latest_of(self.own.number))
            && self.own.told.insert(id, stamp) != Some(stamp)
        {
            self.tell(Key::Image(id), Vec::new(), now);
        }
    }

    /// Tells a record whether or not this site wrote to it, or told it before.
    pub(super) fn adopt_record(&mut self, id: Uuid, now: Now) {
        self.tell(Key::Image(id), Vec::new(), now);
    }

    fn tell(&mut self, key: Key, value: Vec<u8>, now: Now) {
        let log = LogId {
            site: self.own.number,
            family: key.family(),
        };
        let version = self.own.next_version(now);
        let old = self.state.version(log);
        let entry = PartEntry {
            key,
            version,
            value,
        };
        let put = self.state.put(log, &entry).is_ok() && self.state.advance(log, version).is_ok();
        if !put {
            self.event(Event::TooMuchToTell);
            return;
        }
        self.own.last = version;
        self.spread(log, old, version, None, now);
    }

    /// A log went on: neighbours but the one that it came from will be told.
    pub(super) fn spread(
        &mut self,
        log: LogId,
        old: u64,
        new: u64,
        source: Option<ConnectionId>,
        now: Now,
    ) {
        for (connection, neighbour) in &mut self.neighbours {
            if Some(*connection) == source {
                continue;
            }
            neighbour.advanced(log, old, new);
            if neighbour.push_at.is_none() && neighbour.has_untold() {
                let delay = if neighbour.eager {
                    self.random.delay(PUSH_DELAY)
                } else {
                    self.random.around(TELL_DELAY)
                };
                neighbour.push_at = Some(now.monotonic + delay);
            }
        }
    }

    pub(super) fn tell_info(&mut self, now: Now) {
        let info = Info {
            name: self.config.name.clone(),
            zone: self.config.zone.clone(),
            software: self.config.software.clone(),
            boot: self.own.boot,
            since: self.own.since,
            addresses: self.config.addresses.clone(),
        };
        self.tell(Key::Info, info.encode(), now);
        self.own.refresh_at = now.monotonic + REFRESH_INTERVAL;
    }

    fn tell_links(&mut self, now: Now) {
        let mut links: Vec<Link> = self
            .neighbours
            .values()
            .filter(|n| n.is_greeted())
            .map(|n| Link {
                site: n.site,
                rtt_us: n.rtt_us,
                goodput: n.goodput,
            })
            .collect();
        links.sort_unstable_by_key(|link| link.site);
        links.dedup_by_key(|link| link.site);
        let value = encode_links(&links);
        let old = self.state.get(site_log(self.own.number), &Key::Links);
        if old.is_none_or(|(_, old)| old != value) {
            self.tell(Key::Links, value, now);
        }
    }

    /// Takes up where this site was before it stopped: with the site log that it had if that is all it told, else
    /// with a new one.
    pub(super) fn resume(
        &mut self,
        clean: bool,
        holdings: BTreeMap<ManifestId, Holding>,
        now: Now,
        catalogue: &dyn Catalogue,
    ) {
        let own = self.own.number;
        let last = [site_log(own), image_log(own)].map(|log| self.state.version(log));
        self.own.observe(last[0].max(last[1]));
        let since = self.state.site(own).map(|log| log.info.since);
        let held_before = self.holdings(own);
        match since.filter(|_| clean) {
            Some(since) => {
                self.own.since = since;
                self.tell_info(now);
                for manifest in held_before.keys() {
                    if !holdings.contains_key(manifest) {
                        self.set_holding(*manifest, &Holding::None, now);
                    }
                }
            }
            None => {
                self.state.drop_log(site_log(own));
                self.tell_anew(now);
            }
        }
        for (manifest, holding) in &holdings {
            self.set_holding(*manifest, holding, now);
        }
        self.tell_links(now);
        self.tell_records(now, catalogue);
    }

    /// Tells what this site wrote and has not told.
    pub(super) fn tell_records(&mut self, now: Now, catalogue: &dyn Catalogue) {
        for id in catalogue.ids() {
            self.tell_record(id, now, catalogue);
        }
    }

    /// Tells everything of this site's log under new versions, and that what is older is void.
    fn tell_anew(&mut self, now: Now) {
        let log = site_log(self.own.number);
        let entries: Vec<(Key, Vec<u8>)> = self
            .state
            .entries_after(log, 0)
            .filter(|(_, key, value)| **key != Key::Info && !is_none(key, value))
            .map(|(_, key, value)| (key.clone(), value.to_vec()))
            .collect();
        self.own.since = self.own.next_version(now);
        self.own.anew_at = None;
        self.tell_info(now);
        for (key, value) in entries {
            self.tell(key, value, now);
        }
    }

    /// A neighbour has something of our site log that we did not write.
    pub(super) fn dispute(&mut self, connection: ConnectionId, now: Now) {
        if self.own.anew_at.is_some() {
            return;
        }
        let rested = self.own.renewed.map(|at| at + ANEW_INTERVAL);
        self.own.anew_at = Some(rested.unwrap_or_default().max(now.monotonic));
        if let Some(neighbour) = self.neighbours.get(&connection) {
            let neighbour = neighbour.name.clone();
            self.event(Event::Disputed { neighbour });
        }
    }

    /// A member told of a later start of a daemon with our name, which proves nothing.
    pub(super) fn suspect(&mut self, addresses: Vec<String>, now: Now) {
        let rested = self.own.suspected.map(|at| at + SUSPECT_INTERVAL);
        if rested.is_none_or(|at| at <= now.monotonic) {
            self.own.suspected = Some(now.monotonic);
            self.event(Event::Rival { addresses });
        }
    }

    /// The owner met a daemon with our name and certificate at one of these addresses, which [`Event::Rival`] named.
    pub fn handle_rival(&mut self, addresses: Vec<String>, now: Now) {
        if !self.own.outranked {
            self.outrank(addresses, now);
        }
    }

    /// A later start of a daemon with our name is in the mesh: this one leaves it.
    pub(super) fn outrank(&mut self, addresses: Vec<String>, now: Now) {
        self.own.outranked = true;
        self.event(Event::Outranked { addresses });
        let connections: Vec<ConnectionId> = self.neighbours.keys().copied().collect();
        for connection in connections {
            let reason = format!("another daemon named {} started later", self.config.name);
            self.hang_up(connection, reason, now);
        }
        // Nobody can be reached from here any more.
        for site in std::mem::take(&mut self.up) {
            self.event(Event::SiteDown(site));
        }
    }

    pub(super) fn tell_what_is_due(&mut self, now: Now, catalogue: &dyn Catalogue) {
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now.monotonic);
        if version_ms(self.own.last) > now.unix_ms + AHEAD_MAX_MS {
            self.return_to_now(now, catalogue);
        }
        if due(self.own.anew_at) {
            self.own.renewed = Some(now.monotonic);
            self.tell_anew(now);
        }
        if due(self.own.links_at) {
            self.own.links_at = None;
            self.tell_links(now);
        }
        if due(Some(self.own.refresh_at)) {
            self.tell_info(now);
        }
    }

    /// Our clock was ahead, and what we told meanwhile nobody has accepted: all is told again.
    fn return_to_now(&mut self, now: Now, catalogue: &dyn Catalogue) {
        let own = self.own.number;
        let holdings = self.holdings(own);
        for log in [site_log(own), image_log(own)] {
            self.state.drop_log(log);
            for neighbour in self.neighbours.values_mut() {
                neighbour.forget(log);
            }
        }
        self.own.last = 0;
        self.own.told.clear();
        self.resume(false, holdings, now, catalogue);
    }
}
