//! Reading everything back.

use std::collections::{BTreeMap, HashSet};

use vitrail_proto::codec::Reader;
use vitrail_proto::id::{ChunkId, ManifestId};

use crate::error::{Damage, Error, Result};
use crate::pack::PackId;
use crate::rows::{CHUNKS, FACTS, Location};
use crate::store::Store;

/// Rows held in memory at once, 48 bytes each.
const ROWS_MAX: usize = 1_000_000;

/// What reading everything back has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Packs read.
    pub packs: u64,
    /// Frames decoded.
    pub frames: u64,
    /// Chunks checked against their ids.
    pub chunks: u64,
    /// Bytes read from packs.
    pub bytes: u64,
    /// Manifests whose chunks were looked up.
    pub manifests: u64,
    /// Places in packs that are not what was written. Their chunks are out of the index now.
    pub damaged: Vec<Damage>,
    /// Chunks that a manifest needs and the index does not have, at most [`MISSING_MAX`] of them.
    pub missing: Vec<(ManifestId, ChunkId)>,
}

/// Missing chunks that a report lists; more are not listed.
pub const MISSING_MAX: usize = 1000;

impl VerifyReport {
    /// Whether every byte is right.
    pub fn ok(&self) -> bool {
        self.damaged.is_empty() && self.missing.is_empty()
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of packs read.
    pub done_bytes: u64,
    /// Bytes of packs in all.
    pub total_bytes: u64,
}

/// Rows by pack and offset, the order in which a disk is read best.
type Rows = BTreeMap<(PackId, u64), Vec<(ChunkId, Location)>>;

/// Reads every frame that the index names, verifies every chunk in it, and checks that every manifest's
/// chunks are there. Damaged chunks leave the index, so that they can be fetched or stored again.
///
/// Works beside readers, writers and collections; what they add meanwhile is not looked at.
pub fn verify(store: &Store, mut progress: impl FnMut(Progress)) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let packs: Vec<_> = store
        .inner
        .packs
        .lock()
        .iter()
        .map(|(id, row)| (*id, *row))
        .collect();
    let total_bytes = packs.iter().map(|(_, row)| row.len).sum();
    let mut rest = &packs[..];
    while !rest.is_empty() {
        // As many packs as have rows for the memory, at least one.
        let mut rows = 0;
        let count = rest
            .iter()
            .take_while(|(_, row)| {
                rows += row.chunks as usize;
                rows <= ROWS_MAX
            })
            .count()
            .max(1);
        let (group, tail) = rest.split_at(count);
        rest = tail;
        let wanted: HashSet<PackId> = group.iter().map(|(id, _)| *id).collect();
        let mut done = 0;
        for (entry, chunks) in rows_of(store, &wanted)? {
            done = (done + 1) % 64;
            if done == 0 {
                progress(Progress {
                    done_bytes: report.bytes,
                    total_bytes,
                });
            }
            check_entry(store, entry, &chunks, &mut report)?;
        }
        report.packs += group.len() as u64;
    }
    progress(Progress {
        done_bytes: report.bytes,
        total_bytes,
    });
    check_manifests(store, &mut report)?;
    Ok(report)
}

fn rows_of(store: &Store, packs: &HashSet<PackId>) -> Result<Rows> {
    let mut rows = Rows::new();
    for row in store.db().rows(CHUNKS, &[])? {
        let (key, value) = row?;
        let location = Location::decode(&value)?;
        if packs.contains(&location.entry.pack) {
            let id = ChunkId::from_bytes(Reader::new(&key).array("chunk row id")?);
            let at = (location.entry.pack, location.entry.offset);
            rows.entry(at).or_default().push((id, location));
        }
    }
    Ok(rows)
}

fn check_entry(
    store: &Store,
    (pack, offset): (PackId, u64),
    chunks: &[(ChunkId, Location)],
    report: &mut VerifyReport,
) -> Result<()> {
    let Some((_, first)) = chunks.first() else {
        return Ok(());
    };
    let problem = match store.read_frame(first.entry) {
        Ok(frame) => {
            report.frames += 1;
            report.chunks += chunks.len() as u64;
            report.bytes += u64::from(first.entry.len);
            let wrong = chunks.iter().find(|(id, at)| {
                at.entry != first.entry
                    || frame
                        .get(at.number as usize)
                        .is_none_or(|chunk| chunk.id() != *id)
            });
            wrong.map(|(id, _)| format!("chunk {id} is not in the frame that the index names"))
        }
        Err(Error::Damaged(damage)) => Some(damage.reason),
        // A collection took the pack meanwhile; its live chunks were verified when they were copied.
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(reason) = problem {
        let _commit = store.commit_lock();
        let ids: Vec<_> = chunks.iter().map(|(id, _)| *id).collect();
        let now = store.locations(&ids)?;
        let same: Vec<_> = chunks
            .iter()
            .zip(now)
            .filter(|((_, old), now)| now.as_ref() == Some(old))
            .map(|(row, _)| *row)
            .collect();
        store.remove_rows(&same)?;
        report.damaged.push(Damage {
            pack,
            offset,
            reason,
        });
    }
    Ok(())
}

fn check_manifests(store: &Store, report: &mut VerifyReport) -> Result<()> {
    for row in store.db().rows(FACTS, &[])? {
        let id = ManifestId::from_bytes(Reader::new(&row?.0).array("manifest id")?);
        let manifest = match store.manifest(id) {
            Ok(manifest) => manifest,
            Err(Error::MissingManifest(_)) => continue, // collected meanwhile
            Err(error) => return Err(error),
        };
        report.manifests += 1;
        let ids: Vec<_> = manifest.chunks().map(|(id, _)| id).collect();
        for batch in ids.chunks(1000) {
            let missing = store.missing(batch)?;
            let room = MISSING_MAX.saturating_sub(report.missing.len());
            report
                .missing
                .extend(missing.iter().take(room).map(|&i| (id, batch[i])));
        }
    }
    Ok(())
}
