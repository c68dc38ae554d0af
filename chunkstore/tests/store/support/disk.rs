//! A disk in memory that fails on command and forgets at a power cut what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use vitrail_chunkstore::PackId;
use vitrail_chunkstore::disk::{Disk, DiskFile};

/// Handles to one disk; it outlives the stores that use it.
#[derive(Clone, Default)]
pub(crate) struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Files by name, as programs see them and as a power cut leaves them.
    names: BTreeMap<String, Arc<Mutex<Content>>>,
    durable_names: BTreeMap<String, Arc<Mutex<Content>>>,
    operations: u64,
    plan: Option<(u64, Plan)>,
    off: bool,
    /// Bytes that all files together may have; no limit if there is none.
    size: Option<u64>,
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync: writes, and truncations as a length with no bytes.
    unsynced: Vec<(u64, Option<Vec<u8>>)>,
}

/// What happens at the planned operation.
pub(crate) enum Plan {
    /// It fails; nothing is done.
    Fail(io::ErrorKind),
    /// If it writes, a part is written; it fails.
    Tear(io::ErrorKind),
    /// If it syncs, it fails and the system forgets that there was anything to write. Other
    /// operations work, and the next sync is the planned one.
    LoseSync,
    /// The power goes; this is called at that moment.
    PowerCut(Box<dyn FnOnce() + Send>),
    /// It works, after this was called.
    Call(Box<dyn FnOnce() + Send>),
}

#[derive(PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Sync,
    Names,
}

impl FaultyDisk {
    /// Lets the `number`th operation from now on, from 0, go wrong.
    pub(crate) fn plan(&self, number: u64, plan: Plan) {
        let mut state = self.state.lock();
        state.plan = Some((state.operations + number, plan));
    }

    /// Whether the plan is still to come.
    pub(crate) fn is_planned(&self) -> bool {
        self.state.lock().plan.is_some()
    }

    pub(crate) fn is_off(&self) -> bool {
        self.state.lock().off
    }

    pub(crate) fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// The disk as it is after the power has been away: of what was not synced, any part may be there.
    pub(crate) fn power_cycle(&self, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut state = self.state.lock();
        state.off = false;
        state.plan = None;
        let current = std::mem::take(&mut state.names);
        let mut names = std::mem::take(&mut state.durable_names);
        names.retain(|name, _| current.contains_key(name) || rng.random());
        for (name, content) in current {
            if names.contains_key(&name) || rng.random() {
                names.insert(name, content);
            }
        }
        for content in names.values() {
            content.lock().forget(&mut rng);
        }
        state.durable_names = names.clone();
        state.names = names;
    }

    /// Healthy again, with nothing forgotten: the process died and the machine did not.
    pub(crate) fn heal(&self) {
        let mut state = self.state.lock();
        state.off = false;
        state.plan = None;
    }

    /// Makes the disk so large that `bytes` more fit.
    pub(crate) fn set_free(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.size = Some(state.used() + bytes);
    }

    pub(crate) fn free(&self) -> u64 {
        let state = self.state.lock();
        state
            .size
            .map_or(u64::MAX, |size| size.saturating_sub(state.used()))
    }

    /// The packs in their order.
    pub(crate) fn packs(&self) -> Vec<PackId> {
        let state = self.state.lock();
        let packs = state.names.keys().map(|name| PackId::from_file_name(name));
        packs.map(|pack| pack.expect("only packs")).collect()
    }

    /// Changes the bytes of a pack behind the store's back.
    pub(crate) fn edit(&self, pack: PackId, change: impl FnOnce(&mut Vec<u8>)) {
        let state = self.state.lock();
        change(&mut state.names[&pack.file_name()].lock().bytes);
    }

    /// Removes a pack behind the store's back.
    pub(crate) fn lose(&self, pack: PackId) {
        let mut state = self.state.lock();
        state.names.remove(&pack.file_name()).expect("a pack");
    }

    /// Counts an operation and lets it fail if that is planned. `Ok(true)` asks for half of it.
    fn operate(&self, kind: &Kind) -> io::Result<bool> {
        let mut state = self.state.lock();
        if state.off {
            return Err(io::Error::other("the power is off"));
        }
        let number = state.operations;
        state.operations += 1;
        match state.plan.take() {
            Some((at, plan)) if number >= at => match plan {
                Plan::Fail(error) => Err(error.into()),
                Plan::Tear(_) if *kind == Kind::Write => Ok(true),
                Plan::Tear(error) => Err(error.into()),
                Plan::LoseSync if *kind == Kind::Sync => Ok(true),
                Plan::LoseSync => {
                    state.plan = Some((at, Plan::LoseSync));
                    Ok(false)
                }
                Plan::Call(call) => {
                    drop(state);
                    call();
                    Ok(false)
                }
                Plan::PowerCut(call) => {
                    state.off = true;
                    call();
                    Err(io::Error::other("the power is off"))
                }
            },
            other => {
                state.plan = other;
                Ok(false)
            }
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        let contents = self.names.values();
        contents
            .map(|content| content.lock().bytes.len() as u64)
            .sum()
    }
}

impl Content {
    fn apply(bytes: &mut Vec<u8>, offset: u64, write: &Option<Vec<u8>>) {
        let offset = offset as usize;
        match write {
            None => bytes.truncate(offset),
            Some(write) => {
                let end = offset + write.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[offset..end].copy_from_slice(write);
            }
        }
    }

    fn write(&mut self, offset: u64, write: Option<Vec<u8>>) {
        Self::apply(&mut self.bytes, offset, &write);
        self.unsynced.push((offset, write));
    }

    /// Each unsynced write is there, or not, or its first sectors are.
    fn forget(&mut self, rng: &mut SmallRng) {
        for (offset, write) in std::mem::take(&mut self.unsynced) {
            let keep = match (rng.random_range(0..3), write) {
                (0, _) => continue,
                (1, Some(mut write)) => {
                    write.truncate(rng.random_range(0..=write.len()) / 512 * 512);
                    Some(write)
                }
                (_, write) => write,
            };
            Self::apply(&mut self.durable, offset, &keep);
        }
        self.bytes = self.durable.clone();
    }
}

impl Disk for FaultyDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.operate(&Kind::Names)?;
        let mut state = self.state.lock();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = Arc::<Mutex<Content>>::default();
        state.names.insert(name.to_owned(), content.clone());
        let disk = self.clone();
        Ok(Arc::new(FaultyFile { disk, content }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.operate(&Kind::Read)?;
        let content = self.state.lock().names.get(name).cloned();
        let content = content.ok_or(io::ErrorKind::NotFound)?;
        let disk = self.clone();
        Ok(Arc::new(FaultyFile { disk, content }))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.operate(&Kind::Read)?;
        let state = self.state.lock();
        let len = |content: &Mutex<Content>| content.lock().bytes.len() as u64;
        let names = state.names.iter();
        Ok(names.map(|(name, c)| (name.clone(), len(c))).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.operate(&Kind::Names)?;
        let removed = self.state.lock().names.remove(name);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.operate(&Kind::Names)?;
        let mut state = self.state.lock();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.operate(&Kind::Read)?;
        Ok(self.free())
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    content: Arc<Mutex<Content>>,
}

impl DiskFile for FaultyFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let tear = self.disk.operate(&Kind::Write)?;
        let len = if tear { bytes.len() / 2 } else { bytes.len() };
        let mut content = self.content.lock();
        content.write(offset, Some(bytes[..len].to_vec()));
        match tear {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.operate(&Kind::Read)?;
        let content = self.content.lock();
        let found = content
            .bytes
            .get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let lose = self.disk.operate(&Kind::Sync)?;
        let mut content = self.content.lock();
        let unsynced = std::mem::take(&mut content.unsynced);
        if lose {
            return Err(io::Error::other("a write behind the scenes failed"));
        }
        for (offset, write) in unsynced {
            Content::apply(&mut content.durable, offset, &write);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.operate(&Kind::Read)?;
        Ok(self.content.lock().bytes.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.operate(&Kind::Write)?;
        self.content.lock().write(len, None);
        Ok(())
    }
}
