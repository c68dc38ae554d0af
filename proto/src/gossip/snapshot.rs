//! What a site keeps while it is stopped, so that it need not be told everything again.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::entry::Holding;
use super::message::Part;
use super::state::version_ms;
use super::{Catalogue, Gossip, Now};
use crate::clock::{AHEAD_MAX_MS, Stamp};
use crate::codec::{DecodeError, Reader, put_varint};
use crate::id::ManifestId;

const VERSION: u8 = 1;

/// A site's knowledge of the mesh, but for the records, which are in the catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub(super) boot: u64,
    pub(super) last_contact_ms: Option<u64>,
    pub(super) told: BTreeMap<Uuid, Stamp>,
    pub(super) logs: Vec<Part>,
}

impl Snapshot {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.boot.to_le_bytes());
        out.extend_from_slice(&self.last_contact_ms.unwrap_or(0).to_le_bytes());
        put_varint(&mut out, self.told.len() as u64);
        for (id, stamp) in &self.told {
            out.extend_from_slice(id.as_bytes());
            stamp.encode(&mut out);
        }
        put_varint(&mut out, self.logs.len() as u64);
        for part in &self.logs {
            part.encode(&mut out);
        }
        out
    }

    /// Decodes what [`Gossip::export`] returned. A site can start without, and is told everything again.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("snapshot version")?;
        if version != VERSION {
            return Err(DecodeError::Unknown {
                what: "snapshot version",
                value: version.into(),
            });
        }
        let boot = reader.u64("boot")?;
        let last_contact_ms = Some(reader.u64("last contact")?).filter(|ms| *ms > 0);
        let mut told = BTreeMap::new();
        for _ in 0..reader.varint(reader.remaining() as u64, "record count")? {
            let id = Uuid::from_bytes(reader.array("image id")?);
            told.insert(id, Stamp::decode(&mut reader)?);
        }
        let mut logs = Vec::new();
        for _ in 0..reader.varint(reader.remaining() as u64, "log count")? {
            logs.push(Part::decode(&mut reader)?);
        }
        reader.finish("snapshot")?;
        Ok(Self {
            boot,
            last_contact_ms,
            told,
            logs,
        })
    }
}

impl Gossip {
    /// What to keep for the next start. Some 50 bytes an entry and 32 a record that this site wrote to.
    ///
    /// An older export than the last is good too: what is missing is told again.
    pub fn export(&self) -> Vec<u8> {
        let snapshot = Snapshot {
            boot: self.own.boot,
            last_contact_ms: self.last_contact_ms,
            told: self.own.told.clone(),
            logs: self.state.ids().map(|log| self.state.whole(log)).collect(),
        };
        snapshot.encode()
    }

    pub(super) fn restore(
        &mut self,
        snapshot: Snapshot,
        clean: bool,
        holdings: BTreeMap<ManifestId, Holding>,
        now: Now,
        catalogue: &dyn Catalogue,
    ) {
        self.own.told = snapshot.told;
        for part in &snapshot.logs {
            let ahead = version_ms(part.to) > now.unix_ms + AHEAD_MAX_MS;
            if part.log.site == self.own.number || !ahead {
                self.restore_part(part);
            }
        }
        self.forget(now);
        self.resume(clean, holdings, now, catalogue);
    }

    /// Puts a log that this site had. What does not fit is left out and will be asked for.
    fn restore_part(&mut self, part: &Part) {
        let fits = part
            .entries
            .iter()
            .all(|entry| self.state.put(part.log, entry).is_ok());
        if !fits || self.state.advance(part.log, part.to).is_err() {
            self.state.drop_log(part.log);
        }
    }
}
