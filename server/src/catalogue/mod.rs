//! The catalogue: every image record that this site knows.
//!
//! Records live in RocksDB, in the store's database, and as views in memory, so that reads never touch the
//! disk. Writes go through [`Catalogue::create`], [`Catalogue::modify`] and [`Catalogue::delete`], each durable on
//! return; [`Catalogue::merge`] takes in records of other sites. A record costs some 2 KB of memory.
//! [`Copies`] is this site's own: what it means to do with the bytes that the records name.

mod copies;
mod image;
mod namespace;
mod task;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard, RwLock};
use uuid::Uuid;
use vitrail_chunkstore::Store;
use vitrail_chunkstore::db::{Batch, Durability};
use vitrail_proto::clock::Clock;
use vitrail_proto::gossip::MEMORY_MS;
use vitrail_proto::id::ManifestId;
use vitrail_proto::record::{FIELDS_MAX, Merge, RECORD_LEN_MAX, Record, Value};

pub use copies::{Copies, Intent, SPACE as COPIES_SPACE};
pub use image::{Changes, Image, Import, Member, MemberStatus, Staged, Status, Visibility, field};
pub use namespace::{Definition, Definitions, Item, Namespace};
pub use task::{Task, TaskKind, TaskStatus};

/// The catalogue's space in the database.
pub const SPACE: &str = "images";

/// Longest record that is written here. What several sites add to one while they are cut off from each other still fits
/// [`RECORD_LEN_MAX`] together, unless they are more than four.
const WRITTEN_LEN_MAX: usize = RECORD_LEN_MAX / 4;

/// How far ahead of the clock an image may be said to be made because others were made in the same millisecond; those
/// of a site whose clock is further ahead do not count.
const AGE_LEAD_MAX_MS: u64 = 1000;

/// Why the catalogue refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The id is in use, or was and is deleted.
    #[error("image id {0} exists already")]
    Exists(Uuid),
    /// No such image.
    #[error("no image has the id {0}")]
    NotFound(Uuid),
    /// No such namespace.
    #[error("no namespace has the id {0}")]
    NoNamespace(Uuid),
    /// The record would have too many fields, most of them removed ones.
    #[error(
        "more than {FIELDS_MAX} different properties, tags or definitions in 30 days are not possible"
    )]
    TooManyFields,
    /// The record would be too long.
    #[error("what is said of it would take {0} bytes, the limit is {1}")]
    TooLong(usize, usize),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] vitrail_chunkstore::Error),
}

/// The image records of this site.
pub struct Catalogue {
    store: Store,
    site: String,
    /// Held while a record is read, changed and written.
    writer: Mutex<Clock>,
    views: RwLock<Views>,
    listener: OnceLock<Listener>,
    /// When this site last heard from others, in milliseconds since 1970; the end of time if it is alone.
    contact_ms: AtomicU64,
    copies: Copies,
}

type Listener = Box<dyn Fn(Uuid) + Send + Sync>;

#[derive(Default)]
struct Views {
    images: HashMap<Uuid, Arc<Image>>,
    namespaces: HashMap<Uuid, Arc<Namespace>>,
    /// By age, for the API's default order.
    by_age: BTreeSet<(u64, Uuid)>,
    /// Deleted ids, which are never used again.
    deleted: HashSet<Uuid>,
}

impl Views {
    /// Shows a record as what it is.
    fn show(&mut self, record: &Record) {
        if let Some(namespace) = Namespace::of(record) {
            self.forget(record.id);
            self.namespaces.insert(record.id, Arc::new(namespace));
        } else if let Some(image) = Image::of(record) {
            self.namespaces.remove(&record.id);
            self.put(Arc::new(image));
        } else {
            self.bury(record.id);
        }
    }

    fn put(&mut self, image: Arc<Image>) {
        if let Some(old) = self.images.insert(image.id, image.clone()) {
            self.by_age.remove(&(old.created_at, old.id));
        }
        self.by_age.insert((image.created_at, image.id));
    }

    fn forget(&mut self, id: Uuid) {
        if let Some(old) = self.images.remove(&id) {
            self.by_age.remove(&(old.created_at, id));
        }
        self.namespaces.remove(&id);
        self.deleted.remove(&id);
    }

    fn bury(&mut self, id: Uuid) {
        if let Some(old) = self.images.remove(&id) {
            self.by_age.remove(&(old.created_at, id));
        }
        self.namespaces.remove(&id);
        self.deleted.insert(id);
    }
}

impl Catalogue {
    /// Reads all records of the store's database.
    pub fn open(store: &Store, site: &str) -> Result<Self, CatalogueError> {
        let mut views = Views::default();
        let mut clock = Clock::new(site);
        for row in store.db().rows(SPACE, &[])? {
            let record = Record::decode(&row?.1).map_err(vitrail_chunkstore::Error::from)?;
            // Our own stamps must keep growing even if the wall clock was set back.
            if let Err(error) = clock.observe(record.latest(), now_ms()) {
                tracing::warn!(id = %record.id, %error, "a stored record is from the future");
            }
            views.show(&record);
        }
        let named = views.images.values().filter_map(|image| image.manifest());
        let copies = Copies::open(store, &named.collect())?;
        let catalogue = Self {
            copies,
            store: store.clone(),
            site: site.to_owned(),
            writer: Mutex::new(clock),
            views: RwLock::new(views),
            listener: OnceLock::new(),
            contact_ms: AtomicU64::new(u64::MAX),
        };
        catalogue.abandon_work()?;
        Ok(catalogue)
    }

    /// What this site was receiving or importing when it stopped is over.
    fn abandon_work(&self) -> Result<(), CatalogueError> {
        let works_here = |image: &Image| {
            let import = image.import.as_ref().map(|import| import.site.as_str());
            [import, image.saving_at.as_deref()].contains(&Some(&self.site))
        };
        let images = self.images().into_iter();
        for id in images.filter(|i| works_here(i)).map(|i| i.id) {
            let reason = "the site stopped while it worked";
            self.modify(id, |image| {
                Ok::<_, CatalogueError>(image.abandoned(reason, now_ms()))
            })?;
            tracing::info!(%id, "work on the image was interrupted");
        }
        Ok(())
    }

    /// Name of this site.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// An image.
    pub fn get(&self, id: Uuid) -> Option<Arc<Image>> {
        self.views.read().images.get(&id).cloned()
    }

    /// Whether the id is or was an image's.
    pub fn knows(&self, id: Uuid) -> bool {
        let views = self.views.read();
        views.images.contains_key(&id)
            || views.namespaces.contains_key(&id)
            || views.deleted.contains(&id)
    }

    /// All images, the newest first; equally old ones by id, the highest first.
    pub fn images(&self) -> Vec<Arc<Image>> {
        let views = self.views.read();
        views
            .by_age
            .iter()
            .rev()
            .map(|(_, id)| views.images[id].clone())
            .collect()
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.views.read().images.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The manifests that images name and this site has not given up: the roots of a collection.
    pub fn manifests(&self) -> Vec<ManifestId> {
        let views = self.views.read();
        let named = views.images.values().filter_map(|image| image.manifest());
        named
            .filter(|id| self.copies.intent(*id) != Some(Intent::Evict))
            .collect()
    }

    /// What this site means to do with its copies.
    pub fn copies(&self) -> &Copies {
        &self.copies
    }

    /// Makes an image, queued, if `allow` lets it; nobody else makes or changes any meanwhile.
    pub fn create<E: From<CatalogueError>>(
        &self,
        id: Uuid,
        changes: Changes,
        allow: impl FnOnce() -> Result<(), E>,
    ) -> Result<Arc<Image>, E> {
        let mut clock = self.writer.lock();
        if self.knows(id) {
            return Err(CatalogueError::Exists(id).into());
        }
        allow()?;
        let stamp = clock.tick(self.next_age(now_ms()));
        let mut record = Record::new(id, stamp);
        for (key, value) in changes.writes {
            record.set(&key, value, stamp);
        }
        let image = self.write(record)?;
        drop(clock);
        self.wrote(id);
        Ok(image)
    }

    /// When an image that is made now is said to be made: after every other, so that lists have them in the order
    /// in which they were made.
    fn next_age(&self, now: u64) -> u64 {
        let views = self.views.read();
        match views.by_age.last() {
            Some((newest, _)) if (now..now + AGE_LEAD_MAX_MS).contains(newest) => newest + 1,
            _ => now,
        }
    }

    /// Changes an image. `decide` sees it as it is and returns the writes, or an error that leaves it
    /// alone; nobody else changes it meanwhile. The time of the update is written too, unless there is
    /// nothing to write, or nothing but whom the image is shared with.
    pub fn modify<E: From<CatalogueError>>(
        &self,
        id: Uuid,
        decide: impl FnOnce(&Image) -> Result<Changes, E>,
    ) -> Result<Arc<Image>, E> {
        let mut clock = self.writer.lock();
        let image = self.get(id).ok_or(CatalogueError::NotFound(id))?;
        let changes = decide(&image)?;
        if changes.is_empty() {
            return Ok(image);
        }
        let mut record = self.record(id)?.ok_or(CatalogueError::NotFound(id))?;
        let now = now_ms();
        let stamp = clock.tick(now);
        if changes.touch_image() {
            record.set(field::UPDATED_AT, Some(Value::Int(now)), stamp);
        }
        for (key, value) in changes.writes {
            record.set(&key, value, stamp);
        }
        self.prune(&mut record);
        if record.field_count() > FIELDS_MAX {
            return Err(CatalogueError::TooManyFields.into());
        }
        let image = self.write(record)?;
        drop(clock);
        self.wrote(id);
        Ok(image)
    }

    /// Deletes an image for good, if `decide` allows it as it is.
    pub fn delete<E: From<CatalogueError>>(
        &self,
        id: Uuid,
        decide: impl FnOnce(&Image) -> Result<(), E>,
    ) -> Result<(), E> {
        let clock = self.writer.lock();
        let image = self.get(id).ok_or(CatalogueError::NotFound(id))?;
        decide(&image)?;
        self.bury(id, clock)
    }

    /// A record as it is stored, deleted ones too.
    pub fn record(&self, id: Uuid) -> Result<Option<Record>, CatalogueError> {
        let bytes = self.store.db().get(SPACE, id.as_bytes())?;
        Ok(bytes
            .map(|b| Record::decode(&b))
            .transpose()
            .map_err(vitrail_chunkstore::Error::from)?)
    }

    /// Ids of all records, deleted ones too.
    pub fn all_ids(&self) -> Vec<Uuid> {
        let views = self.views.read();
        let there = views.images.keys().chain(views.namespaces.keys());
        there.chain(&views.deleted).copied().collect()
    }

    /// Takes in what another site knows of an image. It survives a crash of the process; of the machine only once
    /// something is synced after it, such as the mesh's record of what was taken in.
    pub fn merge(&self, theirs: Record) -> Result<Merge, CatalogueError> {
        let mut clock = self.writer.lock();
        // What is written here from now on is later than what was read here.
        if let Err(error) = clock.observe(theirs.latest(), now_ms()) {
            tracing::warn!(id = %theirs.id, %error, "a record from the future");
        }
        let (record, outcome) = match self.record(theirs.id)? {
            None => (theirs, Merge::Changed),
            Some(mut ours) => {
                let outcome = ours.merge(theirs);
                (ours, outcome)
            }
        };
        if matches!(outcome, Merge::Changed | Merge::TookTheirs) {
            self.take(record)?;
        }
        Ok(outcome)
    }

    /// Puts a record of other sites in the place of what is here.
    pub fn replace(&self, record: Record) -> Result<(), CatalogueError> {
        let _clock = self.writer.lock();
        self.take(record)
    }

    /// Drops a record as if it had never been here. This is no deletion: it may come again.
    pub fn forget(&self, id: Uuid) -> Result<(), CatalogueError> {
        let _clock = self.writer.lock();
        let mut batch = Batch::new();
        batch.delete(SPACE, id.as_bytes());
        self.store.db().write(batch, Durability::Buffered)?;
        self.views.write().forget(id);
        Ok(())
    }

    /// This site is one of several, and last heard from others at this time. What was removed is remembered for
    /// [`MEMORY_MS`] before that.
    pub fn set_contact(&self, unix_ms: u64) {
        self.contact_ms.store(unix_ms, Ordering::Relaxed);
    }

    /// Calls `listener` with the id after every write of this site, on the thread that wrote. Only the first
    /// listener counts.
    pub fn set_listener(&self, listener: impl Fn(Uuid) + Send + Sync + 'static) {
        if self.listener.set(Box::new(listener)).is_err() {
            tracing::error!("the catalogue has a listener already");
        }
    }

    fn take(&self, record: Record) -> Result<(), CatalogueError> {
        let id = record.id;
        let bytes = record.encode();
        // Nobody could read it back, or be told of it.
        if bytes.len() > RECORD_LEN_MAX || record.field_count() > FIELDS_MAX {
            return Err(CatalogueError::TooLong(bytes.len(), RECORD_LEN_MAX));
        }
        let mut batch = Batch::new();
        batch.put(SPACE, id.as_bytes(), bytes);
        self.store.db().write(batch, Durability::Buffered)?;
        self.views.write().show(&record);
        Ok(())
    }

    fn put(&self, record: &Record) -> Result<(), CatalogueError> {
        let bytes = record.encode();
        if bytes.len() > WRITTEN_LEN_MAX {
            return Err(CatalogueError::TooLong(bytes.len(), WRITTEN_LEN_MAX));
        }
        let mut batch = Batch::new();
        batch.put(SPACE, record.id.as_bytes(), bytes);
        Ok(self.store.db().write(batch, Durability::Synced)?)
    }

    /// Deletes a record for good.
    fn bury<E: From<CatalogueError>>(
        &self,
        id: Uuid,
        mut clock: MutexGuard<'_, Clock>,
    ) -> Result<(), E> {
        let mut record = self.record(id)?.ok_or(CatalogueError::NotFound(id))?;
        record.delete(clock.tick(now_ms()));
        self.put(&record)?;
        self.views.write().bury(id);
        drop(clock);
        self.wrote(id);
        Ok(())
    }

    /// Forgets what was removed from a record so long ago that every site knows. Who was away must hear of what was
    /// removed meanwhile, or brings it back.
    fn prune(&self, record: &mut Record) {
        let contact = self.contact_ms.load(Ordering::Relaxed);
        record.prune(now_ms().min(contact).saturating_sub(MEMORY_MS));
    }

    /// Not under the writer's lock: the listener may wait for somebody who waits for that.
    fn wrote(&self, id: Uuid) {
        if let Some(listener) = self.listener.get() {
            listener(id);
        }
    }

    fn write(&self, record: Record) -> Result<Arc<Image>, CatalogueError> {
        self.put(&record)?;
        let image = Image::of(&record).ok_or(CatalogueError::NotFound(record.id))?;
        let image = Arc::new(image);
        self.views.write().put(image.clone());
        Ok(image)
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}
