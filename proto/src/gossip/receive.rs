//! What comes from neighbours.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::entry::{Info, Key, LogId, is_none};
use super::message::{LogState, Message, Part, PartEntry, VERSION};
use super::state::{Full, PutError, State, version_ms};
use super::{Catalogue, CatalogueFailed, ConnectionId, Event, Gossip, Now, image_log, site_log};
use crate::clock::AHEAD_MAX_MS;
use crate::codec::DecodeError;
use crate::record::Record;

/// After hearing of a version, an entry is waited for so long before it is asked for.
const WANT_DELAY: Duration = Duration::from_millis(500);
/// Another neighbour is asked if nothing has come in this time.
const WANT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most logs in which a neighbour may be ahead.
const AHEAD_MAX: usize = 16_384;

/// Why a connection is ended, or a part not taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("sent a malformed message: {0}")]
    Decode(#[from] DecodeError),
    #[error("calls itself {0}")]
    Name(String),
    #[error("speaks gossip versions {0} to {1}, this site {VERSION}")]
    Version(u8, u8),
    #[error("did not begin with one hello")]
    Hello,
    #[error("has more than there is room for: {0}")]
    Full(#[from] Full),
    #[error("could not be taken in: {0}")]
    Catalogue(#[from] CatalogueFailed),
}

impl From<PutError> for Fault {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Full(full) => Self::Full(full),
            PutError::Decode(error) => Self::Decode(error),
        }
    }
}

impl Gossip {
    /// A message has come. One that is malformed or does not fit ends the connection.
    pub fn handle_message(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
        now: Now,
        catalogue: &mut dyn Catalogue,
    ) {
        if !self.neighbours.contains_key(&connection) {
            return;
        }
        let result = match Message::decode(bytes) {
            Ok(Some(message)) => self.receive(connection, message, now, catalogue),
            Ok(None) => Ok(()),
            Err(error) => Err(error.into()),
        };
        match (result, self.neighbours.get(&connection)) {
            (Err(fault), Some(neighbour)) => {
                let reason = format!("{} {fault}", neighbour.name);
                self.hang_up(connection, reason, now);
            }
            (Ok(()), Some(_)) if self.is_settled() => self.last_contact_ms = Some(now.unix_ms),
            _ => {}
        }
        let connections: Vec<ConnectionId> = self.neighbours.keys().copied().collect();
        for connection in connections {
            self.announce(connection, now);
        }
    }

    fn receive(
        &mut self,
        connection: ConnectionId,
        message: Message,
        now: Now,
        catalogue: &mut dyn Catalogue,
    ) -> Result<(), Fault> {
        let Some(neighbour) = self.neighbours.get_mut(&connection) else {
            return Ok(());
        };
        if neighbour.is_greeted() == matches!(message, Message::Hello(_)) {
            return Err(Fault::Hello);
        }
        match message {
            Message::Hello(hello) => self.receive_hello(connection, hello, now, catalogue)?,
            Message::Digest(digest) => {
                let same = digest == self.state.digest(now.unix_ms);
                neighbour.due.same = same;
                neighbour.due.buckets = !same;
            }
            Message::Same { settled: true } => self.settle(now, catalogue)?,
            Message::Same { settled: false } => {}
            Message::Buckets(theirs) => {
                let ours = self.state.buckets(now.unix_ms);
                for (i, (a, b)) in ours.iter().zip(theirs.iter()).enumerate() {
                    neighbour.due.versions |= u64::from(a != b) << i;
                }
            }
            Message::Versions { buckets, logs } => {
                self.receive_versions(connection, buckets, &logs, now)?;
            }
            Message::Have(versions) => {
                for (log, version) in versions {
                    self.hear_of(connection, log, version, now.monotonic + WANT_DELAY, now)?;
                }
            }
            Message::Want(versions) => {
                neighbour.eager = true;
                for (log, from) in versions {
                    if from < self.state.version(log) {
                        neighbour.owes(log, from);
                    }
                }
            }
            Message::Delta(parts) => {
                let entries = parts.iter().any(|part| !part.entries.is_empty());
                let mut news = false;
                for part in parts {
                    match self.receive_part(connection, &part, now, catalogue) {
                        Ok(new) => news |= new,
                        Err(Fault::Full(_)) => self.refuse(connection, part.log),
                        Err(fault) => return Err(fault),
                    }
                }
                if let Some(neighbour) = self.neighbours.get_mut(&connection)
                    && entries
                    && !news
                    && neighbour.eager
                {
                    neighbour.eager = false;
                    neighbour.due.lazy = true;
                }
            }
            Message::Lazy => neighbour.eager = false,
        }
        Ok(())
    }

    /// Every log of the neighbour in some buckets: what either lacks goes its way.
    fn receive_versions(
        &mut self,
        connection: ConnectionId,
        buckets: u64,
        theirs: &[LogState],
        now: Now,
    ) -> Result<(), Fault> {
        for their in theirs {
            self.hear_of(connection, their.log, their.version, now.monotonic, now)?;
        }
        let ours = self.state.log_states(buckets, now.unix_ms);
        for our in ours {
            let their = theirs.binary_search_by_key(&our.log, |their| their.log);
            let their = their.ok().map(|at| &theirs[at]);
            let version = their.map_or(0, |their| their.version);
            let differs = their.is_some_and(|their| their.hash != our.hash);
            let Some(neighbour) = self.neighbours.get_mut(&connection) else {
                return Ok(());
            };
            if version < our.version {
                neighbour.owes(our.log, version);
            } else if version == our.version && differs {
                if our.log == site_log(self.own.number) {
                    self.dispute(connection, now);
                } else {
                    // Somebody has withheld or invented: each gets all that the other has.
                    neighbour.owes(our.log, 0);
                    neighbour.due.wants.insert(our.log, 0);
                }
            }
        }
        Ok(())
    }

    /// The neighbour has a log up to a version. If that is news it is asked for at `want_at`.
    fn hear_of(
        &mut self,
        connection: ConnectionId,
        log: LogId,
        version: u64,
        want_at: Duration,
        now: Now,
    ) -> Result<(), Fault> {
        let ours = self.state.version(log);
        if !self.is_credible(connection, log, version, now) {
            return Ok(());
        }
        let Some(neighbour) = self.neighbours.get_mut(&connection) else {
            return Ok(());
        };
        let news = version > ours && !neighbour.is_ahead(log);
        if news && neighbour.ahead_in().len() >= AHEAD_MAX {
            return Err(Full::SITES.into());
        }
        neighbour.has(log, version, ours);
        if version > ours {
            let at = self.missing.entry(log).or_insert(want_at);
            *at = (*at).min(want_at);
        }
        Ok(())
    }

    /// Whether a version is neither of a clock that is ahead nor of a site that is forgotten.
    fn is_credible(
        &mut self,
        connection: ConnectionId,
        log: LogId,
        version: u64,
        now: Now,
    ) -> bool {
        let ahead_ms = version_ms(version).saturating_sub(now.unix_ms);
        if ahead_ms > AHEAD_MAX_MS {
            self.tell_of_clock(connection, log, ahead_ms);
            return false;
        }
        !State::is_expired(log, version, now.unix_ms)
    }

    fn tell_of_clock(&mut self, connection: ConnectionId, log: LogId, ahead_ms: u64) {
        if let Some(neighbour) = self.neighbours.get(&connection) {
            let event = Event::ClockAhead {
                neighbour: neighbour.name.clone(),
                site: log.site,
                ahead_ms,
            };
            self.event(event);
        }
    }

    /// Takes in a stretch of a log. Returns whether it went on.
    fn receive_part(
        &mut self,
        connection: ConnectionId,
        part: &Part,
        now: Now,
        catalogue: &mut dyn Catalogue,
    ) -> Result<bool, Fault> {
        let (log, to) = (part.log, part.to);
        if !self.is_credible(connection, log, to, now) {
            return Ok(false);
        }
        self.hear_of(connection, log, to, now.monotonic, now)?;
        let ours = self.state.version(log);
        if log == site_log(self.own.number) {
            return self.receive_own(connection, part, ours, now);
        }
        if part.from > ours {
            // A gap: it is asked for from there.
            return Ok(false);
        }
        let doubted = self.doubted(part);
        for entry in &part.entries {
            self.receive_entry(connection, log, entry, now, catalogue)?;
        }
        let news = self.state.advance(log, to)?;
        if news {
            self.spread(log, ours, to, Some(connection), now);
        }
        if log == image_log(self.own.number) {
            self.own.observe(to);
            for id in doubted {
                if catalogue.record(id).is_some() {
                    self.adopt_record(id, now);
                }
            }
        }
        let ours = self.state.version(log);
        let mut more = false;
        for (id, neighbour) in &mut self.neighbours {
            if *id == connection {
                neighbour.has(log, to, ours);
            }
            more |= neighbour.is_ahead(log);
        }
        if more {
            self.missing.insert(log, now.monotonic + WANT_TIMEOUT);
        } else {
            self.missing.remove(&log);
        }
        Ok(news)
    }

    /// There is no room for a log. The connection stays, since who relays it need not be who fills us up.
    fn refuse(&mut self, connection: ConnectionId, log: LogId) {
        self.refused += 1;
        if let Some(neighbour) = self.neighbours.get_mut(&connection) {
            neighbour.forget(log);
        }
    }

    /// Our own site log as others have it. What we did not write is of an earlier start, of another daemon with our
    /// name, or invented.
    fn receive_own(
        &mut self,
        connection: ConnectionId,
        part: &Part,
        ours: u64,
        now: Now,
    ) -> Result<bool, Fault> {
        self.missing.remove(&part.log);
        for entry in part.entries.iter().filter(|entry| entry.key == Key::Info) {
            let info = Info::decode(&entry.value, self.own.number)?;
            if info.boot > self.own.boot {
                self.suspect(info.addresses, now);
            }
        }
        let foreign = part.entries.iter().any(|entry| {
            let told = self.state.get(part.log, &entry.key);
            let known = told.is_some_and(|(version, value)| {
                version > entry.version || (version == entry.version && value == entry.value)
            });
            !known && !self.own.is_void(entry.version) && !is_none(&entry.key, &entry.value)
        });
        if part.to > ours || foreign {
            self.own.observe(part.to);
            self.dispute(connection, now);
        }
        Ok(foreign)
    }

    /// Records that a stretch of our own image log puts in doubt: of entries that we did not write, and of ours under
    /// versions that it has for others. They are to be told again, under versions that nobody has.
    fn doubted(&self, part: &Part) -> BTreeSet<Uuid> {
        let mut doubted = BTreeSet::new();
        // While returning nothing in it is ours.
        if part.log != image_log(self.own.number) || self.is_returning() {
            return doubted;
        }
        for entry in &part.entries {
            let ours = self.state.get(part.log, &entry.key);
            let foreign = ours.is_none_or(|(version, _)| version < entry.version);
            let other = self.state.key_of(part.log, entry.version);
            for key in [
                Some(&entry.key).filter(|_| foreign),
                other.filter(|k| **k != entry.key),
            ] {
                if let Some(Key::Image(id)) = key {
                    doubted.insert(*id);
                }
            }
        }
        doubted
    }

    fn receive_entry(
        &mut self,
        connection: ConnectionId,
        log: LogId,
        entry: &PartEntry,
        now: Now,
        catalogue: &mut dyn Catalogue,
    ) -> Result<(), Fault> {
        if let Key::Image(id) = entry.key {
            // Also if the entry is known: somebody may have invented one with a higher version.
            if !entry.value.is_empty() {
                self.receive_record(connection, log, id, &entry.value, now, catalogue)?;
            }
            self.state.put(log, entry)?;
            return Ok(());
        }
        if self.state.put(log, entry)? {
            match entry.key {
                Key::Info => {
                    self.event(Event::SiteChanged(log.site));
                    self.overlay.touch(now.monotonic);
                    self.reach_changed(now);
                }
                Key::Links => self.reach_changed(now),
                Key::Holding(manifest) => {
                    self.event(Event::HoldingChanged(log.site, manifest));
                }
                Key::Image(_) | Key::Unread { .. } => {}
            }
        }
        Ok(())
    }

    fn receive_record(
        &mut self,
        connection: ConnectionId,
        log: LogId,
        id: Uuid,
        bytes: &[u8],
        now: Now,
        catalogue: &mut dyn Catalogue,
    ) -> Result<(), Fault> {
        let record = Record::decode(bytes)?;
        if record.id != id {
            return Err(DecodeError::Invalid {
                what: "image entry",
                rule: "its record has the key's id",
            }
            .into());
        }
        let ahead_ms = record.latest().unix_ms().saturating_sub(now.unix_ms);
        if ahead_ms > AHEAD_MAX_MS {
            self.tell_of_clock(connection, log, ahead_ms);
            return Ok(());
        }
        let outcome = self.take_record(record, catalogue)?;
        self.event(Event::RecordMerged(id, outcome));
        Ok(())
    }

    /// Asks for logs that have been waited for.
    pub(super) fn ask_for_missing(&mut self, now: Now) {
        let due: Vec<LogId> = self
            .missing
            .iter()
            .filter(|(_, at)| **at <= now.monotonic)
            .map(|(log, _)| *log)
            .collect();
        for log in due {
            let ours = self.state.version(log);
            let able: Vec<ConnectionId> = self
                .neighbours
                .iter()
                .filter(|(_, n)| n.is_ahead(log))
                .map(|(connection, _)| *connection)
                .collect();
            let Some(asked) = able.get(self.random.below(able.len())) else {
                self.missing.remove(&log);
                continue;
            };
            self.missing.insert(log, now.monotonic + WANT_TIMEOUT);
            if let Some(neighbour) = self.neighbours.get_mut(asked) {
                neighbour.due.wants.insert(log, ours);
                neighbour.eager = true;
            }
        }
    }
}
