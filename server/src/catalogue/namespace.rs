//! Namespaces of metadata definitions.
//!
//! Each is a record, marked by the field that has its name; what is defined in it are fields too, so sites merge namespaces
//! as they merge images. Of two with one name, made at sites that were cut off, the one made first counts.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vitrail_proto::clock::{Clock, Stamp};
use vitrail_proto::record::{FIELDS_MAX, Record, TEXT_LEN_MAX, Value};

use super::{Catalogue, CatalogueError, now_ms};

/// The field with a namespace's name, which no image has.
const NAME: &str = "namespace";
/// The field with what is said of a namespace itself.
const ABOUT: &str = "about";

/// What is defined in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Definition {
    /// A group of properties.
    Object,
    /// A property.
    Property,
    /// A word.
    Tag,
    /// A kind of resource that the namespace is for.
    ResourceType,
}

impl Definition {
    const ALL: [Self; 4] = [Self::Object, Self::Property, Self::Tag, Self::ResourceType];

    fn prefix(self) -> &'static str {
        match self {
            Self::Object => "object:",
            Self::Property => "property:",
            Self::Tag => "tag:",
            Self::ResourceType => "resource_type:",
        }
    }
}

/// Something defined.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// What the API shows, without times.
    pub value: serde_json::Value,
    /// Milliseconds since 1970.
    pub created_at: u64,
    /// Milliseconds since 1970.
    pub updated_at: u64,
}

/// How an item is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    value: serde_json::Value,
    created_at: u64,
}

/// A namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// The record's id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The write that made it.
    pub created: Stamp,
    /// Milliseconds since 1970.
    pub updated_at: u64,
    /// `display_name`, `description`, `visibility`, `protected` and `owner`, as the API shows them.
    pub about: serde_json::Value,
    items: BTreeMap<(Definition, String), Item>,
}

impl Namespace {
    /// The namespace of a record, if it is one's.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let (None, Some(Value::Text(name))) = (record.deleted, record.get(NAME)) else {
            return None;
        };
        let about = match record.get(ABOUT) {
            Some(Value::Text(text)) => serde_json::from_str(text).unwrap_or_default(),
            _ => serde_json::Value::Null,
        };
        let mut items = BTreeMap::new();
        for (key, value) in record.values() {
            let (Some((kind, name)), Value::Text(text)) = (parse(key), value) else {
                continue;
            };
            let (Ok(stored), Some(stamp)) =
                (serde_json::from_str::<Stored>(text), record.stamp(key))
            else {
                continue;
            };
            let item = Item {
                value: stored.value,
                created_at: stored.created_at,
                updated_at: stamp.unix_ms(),
            };
            items.insert((kind, name.to_owned()), item);
        }
        let written = [NAME, ABOUT]
            .into_iter()
            .filter_map(|key| record.stamp(key));
        Some(Self {
            id: record.id,
            name: name.clone(),
            created: record.created,
            updated_at: written
                .map(|stamp| stamp.unix_ms())
                .max()
                .unwrap_or_default(),
            about,
            items,
        })
    }

    /// Milliseconds since 1970.
    pub fn created_at(&self) -> u64 {
        self.created.unix_ms()
    }

    /// The project that it belongs to.
    pub fn owner(&self) -> Option<&str> {
        self.about["owner"].as_str()
    }

    /// Whether everybody may read it.
    pub fn is_public(&self) -> bool {
        self.about["visibility"] == "public"
    }

    /// Whether nothing of it may be deleted.
    pub fn is_protected(&self) -> bool {
        self.about["protected"] == true
    }

    /// Something that is defined in it.
    pub fn item(&self, kind: Definition, name: &str) -> Option<&Item> {
        self.items.get(&(kind, name.to_owned()))
    }

    /// Everything of a kind, by name.
    pub fn items(&self, kind: Definition) -> impl Iterator<Item = (&str, &Item)> {
        let of_kind = move |entry: &(&(Definition, String), &Item)| entry.0.0 == kind;
        let items = self.items.iter().filter(of_kind);
        items.map(|((_, name), item)| (name.as_str(), item))
    }
}

fn parse(key: &str) -> Option<(Definition, &str)> {
    let mut kinds = Definition::ALL.into_iter();
    kinds.find_map(|kind| Some((kind, key.strip_prefix(kind.prefix())?)))
}

/// Writes to a namespace.
#[derive(Debug, Default)]
pub struct Definitions {
    pub(super) writes: BTreeMap<String, Option<Value>>,
}

impl Definitions {
    /// Names it.
    pub fn set_name(&mut self, name: &str) {
        let name = Value::Text(name.to_owned());
        self.writes.insert(NAME.to_owned(), Some(name));
    }

    /// Says something of it.
    pub fn set_about(&mut self, about: &serde_json::Value) -> Result<(), CatalogueError> {
        self.set(ABOUT.to_owned(), about.to_string())
    }

    /// Defines something; true if it was defined here before.
    pub fn define(
        &mut self,
        kind: Definition,
        name: &str,
        value: serde_json::Value,
        created_at: u64,
    ) -> Result<bool, CatalogueError> {
        let stored = serde_json::json!(Stored { value, created_at });
        let key = format!("{}{name}", kind.prefix());
        let before = matches!(self.writes.get(&key), Some(Some(_)));
        self.set(key, stored.to_string()).map(|()| before)
    }

    /// Removes something.
    pub fn remove(&mut self, kind: Definition, name: &str) {
        self.writes.insert(format!("{}{name}", kind.prefix()), None);
    }

    fn set(&mut self, key: String, text: String) -> Result<(), CatalogueError> {
        if text.len() > TEXT_LEN_MAX {
            return Err(CatalogueError::TooLong(text.len(), TEXT_LEN_MAX));
        }
        self.writes.insert(key, Some(Value::Text(text)));
        Ok(())
    }
}

impl Catalogue {
    /// All namespaces, the newest first. Of those with one name only the oldest.
    pub fn namespaces(&self) -> Vec<Arc<Namespace>> {
        let views = self.views.read();
        let mut all: Vec<_> = views.namespaces.values().cloned().collect();
        all.sort_by_key(|namespace| namespace.created);
        let mut names = HashSet::new();
        all.retain(|namespace| names.insert(namespace.name.clone()));
        all.reverse();
        all
    }

    /// A namespace by name.
    pub fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        let views = self.views.read();
        let named = views.namespaces.values().filter(|n| n.name == name);
        named.min_by_key(|n| n.created).cloned()
    }

    /// Makes a namespace, if `allow` lets it; nobody else makes or changes any meanwhile.
    pub fn create_namespace<E: From<CatalogueError>>(
        &self,
        definitions: Definitions,
        allow: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut clock = self.writer.lock();
        allow()?;
        let record = Record::new(Uuid::new_v4(), clock.tick(now_ms()));
        let id = record.id;
        self.define(record, definitions, &mut clock)?;
        drop(clock);
        self.wrote(id);
        Ok(())
    }

    /// Changes a namespace as [`Self::modify`] does an image.
    pub fn modify_namespace<E: From<CatalogueError>>(
        &self,
        id: Uuid,
        decide: impl FnOnce(&Namespace) -> Result<Definitions, E>,
    ) -> Result<(), E> {
        let mut clock = self.writer.lock();
        let definitions = decide(&*self.namespace_of(id)?)?;
        let mut record = self.record(id)?.ok_or(CatalogueError::NoNamespace(id))?;
        self.prune(&mut record);
        self.define(record, definitions, &mut clock)?;
        drop(clock);
        self.wrote(id);
        Ok(())
    }

    /// Deletes a namespace for good, if `decide` allows it as it is.
    pub fn delete_namespace<E: From<CatalogueError>>(
        &self,
        id: Uuid,
        decide: impl FnOnce(&Namespace) -> Result<(), E>,
    ) -> Result<(), E> {
        let clock = self.writer.lock();
        decide(&*self.namespace_of(id)?)?;
        self.bury(id, clock)
    }

    fn namespace_of(&self, id: Uuid) -> Result<Arc<Namespace>, CatalogueError> {
        let namespace = self.views.read().namespaces.get(&id).cloned();
        namespace.ok_or(CatalogueError::NoNamespace(id))
    }

    fn define(
        &self,
        mut record: Record,
        definitions: Definitions,
        clock: &mut Clock,
    ) -> Result<(), CatalogueError> {
        let stamp = clock.tick(now_ms());
        for (key, value) in definitions.writes {
            record.set(&key, value, stamp);
        }
        if record.field_count() > FIELDS_MAX {
            return Err(CatalogueError::TooManyFields);
        }
        self.put(&record)?;
        self.views.write().show(&record);
        Ok(())
    }
}
