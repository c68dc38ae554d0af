//! What this site means to do with its copies of images' bytes.
//!
//! Without a word here a copy is *cached*: it came because somebody read the image, and stays until it is evicted.

use std::collections::HashMap;
use std::collections::HashSet;

use parking_lot::RwLock;
use tokio::sync::Notify;
use vitrail_chunkstore::db::{Batch, Durability};
use vitrail_chunkstore::{Error, Store};
use vitrail_proto::id::ManifestId;

/// The space of these rows in the database: a byte for each manifest.
pub const SPACE: &str = "copies";

/// What a site means to do with a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It was uploaded or asked for here, and is to stay.
    Keep,
    /// It is to be fetched when there is time, as a cached one.
    Fetch,
    /// It was given up: its chunks may be collected.
    Evict,
}

impl Intent {
    fn byte(self) -> u8 {
        match self {
            Self::Keep => 1,
            Self::Fetch => 2,
            Self::Evict => 3,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Keep, Self::Fetch, Self::Evict]
            .into_iter()
            .find(|intent| intent.byte() == byte)
    }
}

/// The intents of this site.
pub struct Copies {
    store: Store,
    intents: RwLock<HashMap<ManifestId, Intent>>,
    /// Copies that are being given up, if others vouch for theirs. Not on disk: a site that stops
    /// meanwhile keeps them.
    leaving: RwLock<HashSet<ManifestId>>,
    evicted: Notify,
    wanted: Notify,
}

impl Copies {
    /// Reads the intents for `named` manifests and drops those for others.
    pub(super) fn open(store: &Store, named: &HashSet<ManifestId>) -> Result<Self, Error> {
        let mut intents = HashMap::new();
        let mut stale = Batch::new();
        for row in store.db().rows(SPACE, &[])? {
            let (key, value) = row?;
            let id = key.as_ref().try_into().ok().map(ManifestId::from_bytes);
            let intent = value.first().copied().and_then(Intent::from_byte);
            match (id.filter(|id| named.contains(id)), intent) {
                (Some(id), Some(intent)) => {
                    intents.insert(id, intent);
                }
                _ => stale.delete(SPACE, &key),
            }
        }
        if !stale.is_empty() {
            store.db().write(stale, Durability::Buffered)?;
        }
        Ok(Self {
            store: store.clone(),
            intents: RwLock::new(intents),
            leaving: RwLock::default(),
            evicted: Notify::new(),
            wanted: Notify::new(),
        })
    }

    /// What is meant for a manifest.
    pub fn intent(&self, id: ManifestId) -> Option<Intent> {
        self.intents.read().get(&id).copied()
    }

    /// The manifests with this intent.
    pub fn all(&self, intent: Intent) -> Vec<ManifestId> {
        let intents = self.intents.read();
        let mut all: Vec<_> = intents
            .iter()
            .filter(|(_, i)| **i == intent)
            .map(|(id, _)| *id)
            .collect();
        all.sort();
        all
    }

    /// Writes an intent, durably. To end [`Intent::Evict`] the caller must hold a lease of the manifest until its
    /// chunks are there.
    pub fn set(&self, id: ManifestId, intent: Option<Intent>) -> Result<(), Error> {
        let mut intents = self.intents.write();
        if intents.get(&id).copied() == intent {
            return Ok(());
        }
        let mut batch = Batch::new();
        match intent {
            Some(intent) => batch.put(SPACE, id.as_bytes(), vec![intent.byte()]),
            None => batch.delete(SPACE, id.as_bytes()),
        }
        self.store.db().write(batch, Durability::Synced)?;
        match intent {
            Some(intent) => intents.insert(id, intent),
            None => intents.remove(&id),
        };
        match intent {
            Some(Intent::Evict) => self.evicted.notify_one(),
            Some(Intent::Fetch) => self.wanted.notify_one(),
            Some(Intent::Keep) | None => {}
        }
        Ok(())
    }

    /// Waits until another copy is to be fetched.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits until another copy was given up.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Whether the copy is given up, or may be in a moment.
    pub fn is_leaving(&self, id: ManifestId) -> bool {
        self.leaving.read().contains(&id) || self.intent(id) == Some(Intent::Evict)
    }

    /// Marks a copy as being given up, until the mark is dropped. None if it is marked already.
    pub fn leave(&self, id: ManifestId) -> Option<Leaving<'_>> {
        let new = self.leaving.write().insert(id);
        new.then_some(Leaving { copies: self, id })
    }
}

/// A copy that is being given up.
pub struct Leaving<'a> {
    copies: &'a Copies,
    id: ManifestId,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.copies.leaving.write().remove(&self.id);
    }
}
