//! What goes to neighbours. A message is made when the stream can take it, from what the neighbour lacks then.

use super::entry::{Family, Key, LogId};
use super::message::{Hello, Message, Part, PartEntry, VERSION};
use super::neighbour::Neighbour;
use super::returning::Standing;
use super::state::State;
use super::{Catalogue, ConnectionId, Gossip, Now};
use crate::record::RECORD_LEN_MAX;

/// Most bytes of entries in a delta of more than one.
const DELTA_LEN_MAX: usize = 64 * 1024 - 1024;
/// What a part and an entry take beside the value, at most.
const PART_OVERHEAD: usize = 40;
const ENTRY_OVERHEAD: usize = 48;
/// Most versions in one message.
const VERSIONS_MAX: usize = 2048;

impl Gossip {
    /// The next message for a connection, if there is one. To be called when the stream can take it.
    pub fn poll_message(
        &mut self,
        connection: ConnectionId,
        now: Now,
        catalogue: &dyn Catalogue,
    ) -> Option<Vec<u8>> {
        let neighbour = self.neighbours.get_mut(&connection)?;
        let settled = matches!(self.standing, Standing::Settled);
        let greeted = neighbour.is_greeted();
        let due = &mut neighbour.due;
        if std::mem::take(&mut due.hello) {
            let hello = Message::Hello(Hello {
                version_min: VERSION,
                version_max: VERSION,
                name: self.config.name.clone(),
                boot: self.own.boot,
                settled,
                digest: self.state.digest(now.unix_ms),
            });
            return Some(hello.encode());
        }
        let message = if !greeted {
            None
        } else if std::mem::take(&mut due.lazy) {
            Some(Message::Lazy)
        } else if std::mem::take(&mut due.same) {
            Some(Message::Same { settled })
        } else if std::mem::take(&mut due.digest) {
            Some(Message::Digest(self.state.digest(now.unix_ms)))
        } else if std::mem::take(&mut due.buckets) {
            Some(Message::Buckets(self.state.buckets(now.unix_ms)))
        } else if due.versions != 0 {
            let buckets = std::mem::take(&mut due.versions);
            let logs = self.state.log_states(buckets, now.unix_ms);
            Some(Message::Versions { buckets, logs })
        } else if !due.wants.is_empty() {
            let later = due.wants.keys().nth(VERSIONS_MAX).copied();
            let later = later.map_or_else(Default::default, |log| due.wants.split_off(&log));
            let wants = std::mem::replace(&mut due.wants, later);
            Some(Message::Want(wants.into_iter().collect()))
        } else {
            // While returning, what we have of images may be what others have long removed.
            let families: &[Family] = match self.standing {
                Standing::Returning { .. } => &[Family::Site],
                _ => &[Family::Site, Family::Images],
            };
            next_delta(&self.state, neighbour, families, now, catalogue)
                .or_else(|| next_have(&self.state, neighbour, now))
        };
        if message.is_none() {
            neighbour.ready = false;
            if neighbour.push_at.is_some_and(|at| at <= now.monotonic) {
                neighbour.push_at = None;
            }
        }
        message.map(|message| message.encode())
    }
}

fn next_delta(
    state: &State,
    neighbour: &mut Neighbour,
    families: &[Family],
    now: Now,
    catalogue: &dyn Catalogue,
) -> Option<Message> {
    let mut parts = Vec::new();
    let mut room = DELTA_LEN_MAX;
    while room >= PART_OVERHEAD
        && let Some((log, from)) = neighbour.next_behind(families, now.monotonic)
    {
        let ours = state.version(log);
        if from >= ours || State::is_expired(log, ours, now.unix_ms) {
            neighbour.forget(log);
            continue;
        }
        room -= PART_OVERHEAD;
        let (part, done) = next_part(state, log, from, &mut room, parts.is_empty(), catalogue);
        neighbour.sent(log, part.to, done);
        if !done && part.entries.is_empty() {
            break;
        }
        parts.push(part);
    }
    (!parts.is_empty()).then_some(Message::Delta(parts))
}

/// As much of a log as there is room for; the first entry of a message in any case. Returns whether that is all.
fn next_part(
    state: &State,
    log: LogId,
    from: u64,
    room: &mut usize,
    first: bool,
    catalogue: &dyn Catalogue,
) -> (Part, bool) {
    let mut part = Part {
        log,
        from,
        to: from,
        entries: Vec::new(),
    };
    for (version, key, value) in state.entries_after(log, from) {
        let value = match key {
            Key::Image(id) => catalogue
                .record(*id)
                .map(|record| record.encode())
                .filter(|bytes| bytes.len() <= RECORD_LEN_MAX)
                .unwrap_or_default(),
            _ => value.to_vec(),
        };
        let len = ENTRY_OVERHEAD + value.len();
        if len > *room && !(first && part.entries.is_empty()) {
            return (part, false);
        }
        *room = room.saturating_sub(len);
        part.to = version;
        part.entries.push(PartEntry {
            key: key.clone(),
            version,
            value,
        });
    }
    part.to = state.version(log);
    (part, true)
}

fn next_have(state: &State, neighbour: &mut Neighbour, now: Now) -> Option<Message> {
    if neighbour.eager || neighbour.push_at.is_none_or(|at| at > now.monotonic) {
        return None;
    }
    let untold = neighbour.take_untold(VERSIONS_MAX);
    let have = untold.into_iter().map(|log| (log, state.version(log)));
    let have: Vec<_> = have.collect();
    (!have.is_empty()).then_some(Message::Have(have))
}
