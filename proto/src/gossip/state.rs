//! All logs as this site knows them: entries, versions, digests.

use std::collections::BTreeMap;

use super::entry::{Family, Info, Key, Link, LogId, SiteNumber, decode_links, is_none};
use super::message::{BUCKETS, Digest, LogState, Part, PartEntry};
use crate::codec::DecodeError;

/// How long removals are remembered and sites that are silent are known: 30 days.
pub const MEMORY_MS: u64 = 30 * DAY_MS;
/// Holdings of nothing are remembered a day longer than the log of a site that could miss them.
const REMOVED_HOLDING_MEMORY_MS: u64 = MEMORY_MS + DAY_MS;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Most logs: 4,096 sites of two families.
const LOGS_MAX: usize = 2 * 4096;
/// Most entries of a site log.
const SITE_ENTRIES_MAX: usize = 16_384;
/// Most entries of an image log.
const IMAGE_ENTRIES_MAX: usize = 1 << 20;
/// Most bytes of all entries together, with [`ENTRY_OVERHEAD`].
const BYTES_MAX: usize = 256 << 20;
/// What an entry costs beside its value: key twice, versions, tree nodes.
const ENTRY_OVERHEAD: usize = 128;

/// The time in a version.
pub(super) fn version_ms(version: u64) -> u64 {
    version >> 16
}

/// A limit of what is kept of other sites is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for more {0}")]
pub(super) struct Full(&'static str);

impl Full {
    pub(super) const SITES: Self = Self("sites");
}

#[derive(Debug)]
struct Entry {
    version: u64,
    value: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Log {
    version: u64,
    entries: BTreeMap<Key, Entry>,
    by_version: BTreeMap<u64, Key>,
    hash: u64,
    info: Option<Info>,
    links: Vec<Link>,
}

/// What a site log's info and links say, decoded.
pub(super) struct SiteLog<'a> {
    pub(super) site: SiteNumber,
    pub(super) info: &'a Info,
    pub(super) links: &'a [Link],
}

#[derive(Debug, Default)]
pub(super) struct State {
    logs: BTreeMap<LogId, Log>,
    /// Of all entries, with [`ENTRY_OVERHEAD`].
    bytes: usize,
}

impl State {
    /// Everything of the log up to this was seen; 0 if nothing.
    pub(super) fn version(&self, log: LogId) -> u64 {
        self.logs.get(&log).map_or(0, |log| log.version)
    }

    /// A site log is expired if its site has told nothing for [`MEMORY_MS`].
    pub(super) fn is_expired(log: LogId, version: u64, unix_ms: u64) -> bool {
        log.family == Family::Site && version_ms(version) + MEMORY_MS < unix_ms
    }

    /// Raises a log's version. False if it is no higher than before.
    pub(super) fn advance(&mut self, log: LogId, version: u64) -> Result<bool, Full> {
        let log = self.log_mut(log)?;
        let newer = version > log.version;
        log.version = log.version.max(version);
        Ok(newer)
    }

    fn log_mut(&mut self, id: LogId) -> Result<&mut Log, Full> {
        if !self.logs.contains_key(&id) && self.logs.len() >= LOGS_MAX {
            return Err(Full::SITES);
        }
        Ok(self.logs.entry(id).or_default())
    }

    /// Puts an entry if it is newer than what its key has. Returns whether it was.
    ///
    /// A site uses a version once. Of two entries with one version the second is not put.
    pub(super) fn put(&mut self, id: LogId, entry: &PartEntry) -> Result<bool, PutError> {
        let PartEntry {
            key,
            version,
            value,
        } = entry;
        let entries_max = match id.family {
            Family::Site => SITE_ENTRIES_MAX,
            Family::Images => IMAGE_ENTRIES_MAX,
        };
        let bytes = self.bytes;
        let log = self.log_mut(id)?;
        let old = log.entries.get(key).map(|old| old.version);
        let void = log.info.as_ref().is_some_and(|info| *version < info.since);
        let taken = log.by_version.contains_key(version);
        if old.is_some_and(|old| old >= *version) || void || taken {
            return Ok(false);
        }
        if old.is_none() && log.entries.len() >= entries_max {
            return Err(Full("entries of one site").into());
        }
        if bytes + value.len() + ENTRY_OVERHEAD > BYTES_MAX {
            return Err(Full("entries").into());
        }
        let since = match key {
            Key::Info => {
                let info = Info::decode(value, id.site)?;
                let since = info.since;
                if since > *version {
                    return Err(PutError::Decode(DecodeError::Invalid {
                        what: "since",
                        rule: "not after the info's own version",
                    }));
                }
                log.info = Some(info);
                Some(since)
            }
            Key::Links => {
                log.links = decode_links(value)?;
                None
            }
            Key::Holding(_) => {
                super::entry::Holding::decode(value)?;
                None
            }
            Key::Image(_) | Key::Unread { .. } => None,
        };
        self.remove(id, key);
        let value: Box<[u8]> = match id.family {
            Family::Site => value.as_slice().into(),
            // Records are in the catalogue.
            Family::Images => Box::default(),
        };
        self.insert(id, key.clone(), *version, value);
        if let Some(since) = since {
            self.void_before(id, since);
        }
        Ok(true)
    }

    fn insert(&mut self, id: LogId, key: Key, version: u64, value: Box<[u8]>) {
        let log = self.logs.entry(id).or_default();
        log.hash ^= entry_hash(&key, version, &value);
        self.bytes += value.len() + ENTRY_OVERHEAD;
        log.by_version.insert(version, key.clone());
        log.entries.insert(key, Entry { version, value });
    }

    fn remove(&mut self, id: LogId, key: &Key) {
        let Some(log) = self.logs.get_mut(&id) else {
            return;
        };
        let Some(old) = log.entries.remove(key) else {
            return;
        };
        log.hash ^= entry_hash(key, old.version, &old.value);
        log.by_version.remove(&old.version);
        self.bytes -= old.value.len() + ENTRY_OVERHEAD;
    }

    fn void_before(&mut self, id: LogId, since: u64) {
        let Some(log) = self.logs.get(&id) else {
            return;
        };
        let void: Vec<Key> = log
            .by_version
            .iter()
            .take_while(|(version, _)| **version < since)
            .map(|(_, key)| key.clone())
            .collect();
        for key in void {
            if key == Key::Links {
                self.logs.entry(id).or_default().links.clear();
            }
            self.remove(id, &key);
        }
    }

    /// Drops a log.
    pub(super) fn drop_log(&mut self, id: LogId) {
        if let Some(log) = self.logs.remove(&id) {
            self.bytes -= log
                .entries
                .values()
                .map(|entry| entry.value.len() + ENTRY_OVERHEAD)
                .sum::<usize>();
        }
    }

    /// Drops expired logs, but for our own, and what is remembered of removed holdings. Returns the sites dropped.
    pub(super) fn forget(&mut self, own: SiteNumber, unix_ms: u64) -> Vec<SiteNumber> {
        let expired: Vec<LogId> = self
            .logs
            .iter()
            .filter(|(id, log)| id.site != own && Self::is_expired(**id, log.version, unix_ms))
            .map(|(id, _)| *id)
            .collect();
        for log in &expired {
            self.drop_log(*log);
        }
        let horizon_ms = unix_ms.saturating_sub(REMOVED_HOLDING_MEMORY_MS);
        let removed: Vec<(LogId, Key)> = self
            .logs
            .iter()
            .flat_map(|(id, log)| {
                log.by_version
                    .iter()
                    .take_while(move |(version, _)| version_ms(**version) < horizon_ms)
                    .filter(|(_, key)| {
                        log.entries
                            .get(key)
                            .is_some_and(|entry| is_none(key, &entry.value))
                    })
                    .map(|(_, key)| (*id, key.clone()))
            })
            .collect();
        for (log, key) in removed {
            self.remove(log, &key);
        }
        expired.into_iter().map(|log| log.site).collect()
    }

    /// Ids of all logs.
    pub(super) fn ids(&self) -> impl Iterator<Item = LogId> + '_ {
        self.logs.keys().copied()
    }

    /// What a log tells after a version, in the order of versions.
    pub(super) fn entries_after(
        &self,
        log: LogId,
        version: u64,
    ) -> impl Iterator<Item = (u64, &Key, &[u8])> + '_ {
        self.logs.get(&log).into_iter().flat_map(move |log| {
            log.by_version
                .range(version.saturating_add(1)..)
                .filter_map(|(version, key)| {
                    let entry = log.entries.get(key)?;
                    Some((*version, key, &*entry.value))
                })
        })
    }

    /// What a log told at a version.
    pub(super) fn key_of(&self, log: LogId, version: u64) -> Option<&Key> {
        self.logs.get(&log)?.by_version.get(&version)
    }

    /// An entry's version and value.
    pub(super) fn get(&self, log: LogId, key: &Key) -> Option<(u64, &[u8])> {
        let entry = self.logs.get(&log)?.entries.get(key)?;
        Some((entry.version, &entry.value))
    }

    /// What a site tells of itself, decoded, if it has told an info.
    pub(super) fn site(&self, site: SiteNumber) -> Option<SiteLog<'_>> {
        let log = self.logs.get(&LogId {
            site,
            family: Family::Site,
        })?;
        Some(SiteLog {
            site,
            info: log.info.as_ref()?,
            links: &log.links,
        })
    }

    /// All sites that have told an info, in the order of numbers.
    pub(super) fn sites(&self) -> impl Iterator<Item = SiteLog<'_>> + '_ {
        self.logs
            .keys()
            .filter(|id| id.family == Family::Site)
            .filter_map(|id| self.site(id.site))
    }

    /// The logs of some buckets, without those that are expired.
    pub(super) fn log_states(&self, buckets: u64, unix_ms: u64) -> Vec<LogState> {
        self.logs
            .iter()
            .filter(|(id, log)| {
                buckets & (1 << bucket(id.site)) != 0
                    && log.version > 0
                    && !Self::is_expired(**id, log.version, unix_ms)
            })
            .map(|(id, log)| LogState {
                log: *id,
                version: log.version,
                hash: log.hash,
            })
            .collect()
    }

    /// A hash for each bucket; 0 if it is empty.
    pub(super) fn buckets(&self, unix_ms: u64) -> Box<[u64; BUCKETS]> {
        let mut encoded: Vec<Vec<u8>> = vec![Vec::new(); BUCKETS];
        for state in self.log_states(u64::MAX, unix_ms) {
            state.encode(&mut encoded[bucket(state.log.site)]);
        }
        let mut hashes = Box::new([0; BUCKETS]);
        for (hash, bucket) in hashes.iter_mut().zip(&encoded) {
            if !bucket.is_empty() {
                *hash = first_u64(&blake3::hash(bucket));
            }
        }
        hashes
    }

    /// A digest of everything.
    pub(super) fn digest(&self, unix_ms: u64) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for hash in self.buckets(unix_ms).iter() {
            hasher.update(&hash.to_le_bytes());
        }
        let mut digest = Digest::default();
        hasher.finalize_xof().fill(&mut digest);
        digest
    }

    /// A log whole, as it is kept: image entries without records.
    pub(super) fn whole(&self, log: LogId) -> Part {
        Part {
            log,
            from: 0,
            to: self.version(log),
            entries: self
                .entries_after(log, 0)
                .map(|(version, key, value)| PartEntry {
                    key: key.clone(),
                    version,
                    value: value.to_vec(),
                })
                .collect(),
        }
    }

    /// Bytes that entries take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Why an entry was not put.
#[derive(Debug, thiserror::Error)]
pub(super) enum PutError {
    #[error(transparent)]
    Full(#[from] Full),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The bucket of a site's logs.
pub(super) fn bucket(site: SiteNumber) -> usize {
    (site >> 58) as usize
}

fn entry_hash(key: &Key, version: u64, value: &[u8]) -> u64 {
    // They are forgotten at different times.
    if is_none(key, value) {
        return 0;
    }
    let mut encoded = Vec::new();
    key.encode(&mut encoded);
    encoded.extend_from_slice(&version.to_le_bytes());
    encoded.extend_from_slice(value);
    first_u64(&blake3::hash(&encoded))
}

fn first_u64(hash: &blake3::Hash) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::super::entry::Holding;
    use super::*;
    use crate::id::ManifestId;

    const LOG: LogId = LogId {
        site: 5,
        family: Family::Site,
    };

    fn holding(number: u8, version: u64, holding: &Holding) -> PartEntry {
        PartEntry {
            key: Key::Holding(ManifestId::of(&[number])),
            version,
            value: holding.encode(),
        }
    }

    #[test]
    fn the_digest_depends_on_what_is_known_and_not_on_the_order() {
        let (a, b) = (
            holding(1, 10, &Holding::Complete),
            holding(2, 20, &Holding::Complete),
        );
        let mut one = State::default();
        let mut two = State::default();
        for (state, order) in [(&mut one, [&a, &b]), (&mut two, [&b, &a])] {
            for entry in order {
                assert!(state.put(LOG, entry).unwrap());
            }
            state.advance(LOG, 20).unwrap();
        }
        assert_eq!(one.digest(0), two.digest(0));
        assert!(!one.put(LOG, &a).unwrap(), "known");
        assert!(one.put(LOG, &holding(1, 30, &Holding::None)).unwrap());
        assert_ne!(one.digest(0), two.digest(0));
    }

    #[test]
    fn removed_holdings_and_silent_sites_are_forgotten_and_leave_no_trace() {
        let ms = |days: u64| days * DAY_MS;
        let at = |days: u64| ms(days) << 16;
        let mut state = State::default();
        state.put(LOG, &holding(1, at(1), &Holding::None)).unwrap();
        state
            .put(LOG, &holding(2, at(20), &Holding::Complete))
            .unwrap();
        state.advance(LOG, at(20)).unwrap();
        let digest = state.digest(ms(21));
        assert!(state.forget(0, ms(33)).is_empty());
        assert_eq!(state.entries_after(LOG, 0).count(), 1);
        assert_eq!(state.digest(ms(33)), digest);
        assert_eq!(state.digest(ms(51)), State::default().digest(ms(51)));
        assert_eq!(state.forget(0, ms(51)), [5]);
        assert_eq!(state.bytes(), 0);
    }

    #[test]
    fn only_so_many_sites_are_kept() {
        let mut state = State::default();
        for site in 0..LOGS_MAX as u64 {
            state.advance(LogId { site, ..LOG }, 1).unwrap();
        }
        let one_more = LogId {
            site: u64::MAX,
            ..LOG
        };
        assert_eq!(state.advance(one_more, 1), Err(Full::SITES));
        assert_eq!(state.version(one_more), 0);
    }
}
