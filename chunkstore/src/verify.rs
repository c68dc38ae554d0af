//! Reading everything back: at once, or so slowly that nobody notices.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vitrail_proto::codec::Reader;
use vitrail_proto::id::{ChunkId, ManifestId};

use crate::error::{Damage, Error, Result};
use crate::pack::{PackId, check_header, read_footer};
use crate::rows::{CHUNKS, FACTS, Location, PackRow, chunk_row};
use crate::store::Store;

/// Rows held in memory at once, 48 bytes each.
const ROWS_MAX: usize = 1_000_000;

/// How often a scrub that is waiting looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

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
    /// Manifests that are here in part, as far as the caller knows; what they lack is not missing.
    pub partial_manifests: u64,
    /// Places in packs that are not what was written, or cannot be read. Chunks that were read wrong are
    /// out of the index now; a pack whose header or footer is wrong is rewritten by the next collection.
    pub damaged: Vec<Damage>,
    /// Manifests that are not what was written.
    pub damaged_manifests: Vec<ManifestId>,
    /// Chunks that a manifest needs whole and the index does not have, at most [`MISSING_MAX`] of them.
    pub missing: Vec<(ManifestId, ChunkId)>,
}

/// Missing chunks that a report lists; more are not listed.
pub const MISSING_MAX: usize = 1000;

impl VerifyReport {
    /// Whether every byte is right.
    pub fn ok(&self) -> bool {
        self.damaged.is_empty() && self.damaged_manifests.is_empty() && self.missing.is_empty()
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

/// How everything is read back. The default is all of it, as fast as the disk allows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scrub<'a> {
    /// Bytes of packs per second at most. A frame is read at once, so the rate is kept over seconds and not below.
    pub rate: Option<NonZeroU64>,
    /// Manifests whose chunks must all be here; every stored one if none is given.
    pub whole: Option<&'a HashSet<ManifestId>>,
    /// Once this is true the scrub ends, with [`Error::Stopped`].
    pub stop: Option<&'a AtomicBool>,
}

/// Reads everything back as [`Scrub`] does by default.
pub fn verify(store: &Store, progress: impl FnMut(Progress)) -> Result<VerifyReport> {
    Scrub::default().run(store, progress)
}

impl Scrub<'_> {
    /// Reads every frame that the index names, verifies every chunk in it, and checks that manifests' chunks are
    /// there. Damaged chunks leave the index, so that they can be fetched or stored again. `progress` is called after
    /// each frame.
    ///
    /// Works beside readers, writers and collections; what they add meanwhile is not looked at.
    pub fn run(&self, store: &Store, mut progress: impl FnMut(Progress)) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let packs: Vec<_> = store
            .inner
            .packs
            .lock()
            .iter()
            .map(|(id, row)| (*id, *row))
            .collect();
        let total_bytes = packs.iter().map(|(_, row)| row.len).sum();
        let mut pace = self.rate.map(Pace::new);
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
            for (id, row) in group {
                check_ends(store, *id, row, &mut report)?;
            }
            let wanted: HashSet<PackId> = group.iter().map(|(id, _)| *id).collect();
            for chunks in rows_of(store, &wanted)?.values() {
                let before = report.bytes;
                check_entry(store, chunks, &mut report)?;
                let done_bytes = report.bytes;
                progress(Progress {
                    done_bytes,
                    total_bytes,
                });
                let wait = pace.as_mut().map(|pace| pace.wait(done_bytes - before));
                self.wait(wait.unwrap_or_default())?;
            }
            report.packs += group.len() as u64;
        }
        check_manifests(store, self.whole, &mut report)?;
        Ok(report)
    }

    fn wait(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(Error::Stopped);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(STOP_INTERVAL));
        }
    }
}

/// Keeps reading at a rate. Time that was not used is not made up for.
struct Pace {
    rate: NonZeroU64,
    /// When the next bytes may be read.
    next: Instant,
}

impl Pace {
    fn new(rate: NonZeroU64) -> Self {
        Self {
            rate,
            next: Instant::now(),
        }
    }

    /// How long to wait after reading `bytes`.
    fn wait(&mut self, bytes: u64) -> Duration {
        let now = Instant::now();
        let takes = Duration::from_secs_f64(bytes as f64 / self.rate.get() as f64);
        self.next = self.next.max(now) + takes;
        self.next - now
    }
}

/// Checks a pack's header, and its footer if it is sealed: reading needs neither, but rebuilding the index
/// does.
fn check_ends(store: &Store, id: PackId, row: &PackRow, report: &mut VerifyReport) -> Result<()> {
    let file = match store.file(id) {
        Ok(file) => file,
        // Its rows, if it has any, are reported as damaged; if not, a collection took it.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let damage = match check_header(id, &*file) {
        Ok(()) if !row.sealed || matches!(read_footer(&*file, row.len), Ok(Some(_))) => {
            return Ok(());
        }
        Ok(()) => Damage {
            pack: id,
            offset: row.len,
            reason: "the footer before this place is wrong".into(),
        },
        Err(Error::Damaged(damage)) => damage,
        Err(Error::Io { source, .. }) => Damage {
            pack: id,
            offset: 0,
            reason: source.to_string(),
        },
        Err(error) => return Err(error),
    };
    report.damaged.push(damage);
    store.unseal(id)
}

fn rows_of(store: &Store, packs: &HashSet<PackId>) -> Result<Rows> {
    let mut rows = Rows::new();
    for row in store.db().rows(CHUNKS, &[])? {
        let (id, location) = chunk_row(&row?)?;
        if packs.contains(&location.entry.pack) {
            let at = (location.entry.pack, location.entry.offset);
            rows.entry(at).or_default().push((id, location));
        }
    }
    Ok(rows)
}

fn check_entry(
    store: &Store,
    chunks: &[(ChunkId, Location)],
    report: &mut VerifyReport,
) -> Result<()> {
    let Some((_, Location { entry, .. })) = chunks.first() else {
        return Ok(());
    };
    let frame = match store.read_frame(*entry) {
        Ok(frame) => frame,
        Err(Error::Damaged(damage)) => {
            let ids: Vec<_> = chunks.iter().map(|(id, _)| *id).collect();
            // None is left there if a collection took the pack meanwhile.
            if store.quarantine(&damage, *entry, &ids)? > 0 {
                report.damaged.push(damage);
            }
            return Ok(());
        }
        // A disk that does not answer may do so later, so the chunks stay in the index.
        Err(Error::Io { source, .. }) => {
            report.damaged.push(entry.damage(source.to_string()));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    report.frames += 1;
    report.chunks += chunks.len() as u64;
    report.bytes += u64::from(entry.len);
    for (id, at) in chunks {
        let chunk = frame.get(at.number as usize);
        if at.entry == *entry && chunk.is_some_and(|chunk| chunk.id() == *id) {
            continue;
        }
        let reason = format!("chunk {id} is not in the frame that the index names");
        let damage = at.entry.damage(reason);
        if store.quarantine(&damage, at.entry, &[*id])? > 0 {
            report.damaged.push(damage);
        }
    }
    Ok(())
}

fn check_manifests(
    store: &Store,
    whole: Option<&HashSet<ManifestId>>,
    report: &mut VerifyReport,
) -> Result<()> {
    for row in store.db().rows(FACTS, &[])? {
        let id = ManifestId::from_bytes(Reader::new(&row?.0).array("manifest id")?);
        let manifest = match store.manifest(id) {
            Ok(manifest) => manifest,
            Err(Error::MissingManifest(_)) => continue, // collected meanwhile
            Err(Error::DamagedManifest { .. }) => {
                report.damaged_manifests.push(id);
                continue;
            }
            Err(error) => return Err(error),
        };
        report.manifests += 1;
        let ids: Vec<_> = manifest.chunks().map(|(id, _)| id).collect();
        let mut partial = false;
        for batch in ids.chunks(1000) {
            let missing = store.missing(batch)?;
            if whole.is_some_and(|whole| !whole.contains(&id)) {
                partial |= !missing.is_empty();
                continue;
            }
            let room = MISSING_MAX.saturating_sub(report.missing.len());
            report
                .missing
                .extend(missing.iter().take(room).map(|&i| (id, batch[i])));
        }
        report.partial_manifests += u64::from(partial);
    }
    Ok(())
}
