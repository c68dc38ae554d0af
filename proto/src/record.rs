//! Image records: what the catalogue knows of one image, in a form that sites merge without asking.
//!
//! A record is a set of fields, each the last write to it by [`Stamp`]. Merging takes the later write of each
//! field, so it is commutative, associative and idempotent: sites that have seen the same writes are equal,
//! whatever the order. Three rules go beyond that:
//! - A deleted record stays deleted. Nothing brings an id back.
//! - Of two records *created* with one id (at sites that were cut off), the one created first
//!   wins whole; their fields are never mixed.
//! - [`DATA`] is written once: the first write wins, so the bytes of an active image never change.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::clock::Stamp;
use crate::codec::{DecodeError, Reader, put_bytes, put_varint};
use crate::id::ManifestId;
use crate::manifest::IMAGE_SIZE_MAX;

/// The field that names an image's bytes.
pub const DATA: &str = "data";

const VERSION: u8 = 1;
/// Most fields of a record, removed ones included.
pub const FIELDS_MAX: usize = 2048;
/// Longest name of a field in bytes: 255 characters and a prefix.
pub const KEY_LEN_MAX: usize = 1040;
/// Longest text value in bytes.
pub const TEXT_LEN_MAX: usize = 65_535;
/// Longest encoded record in bytes. Records are far smaller: fields are bounded by the API's limits.
pub const RECORD_LEN_MAX: usize = 4 * 1024 * 1024;

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Present and null.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Int(u64),
    /// A text, at most [`TEXT_LEN_MAX`] bytes.
    Text(String),
    /// What an image's bytes are.
    Data(Data),
}

/// What an image's bytes are. Immutable once written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Their manifest.
    pub manifest: ManifestId,
    /// Their number, at most [`IMAGE_SIZE_MAX`].
    pub size: u64,
    /// Bytes of the disk that a guest sees, if known.
    pub virtual_size: Option<u64>,
    /// Their MD5.
    pub md5: [u8; 16],
    /// Their SHA-512.
    pub sha512: [u8; 64],
}

/// The last write to a field; no value means that it was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// When it was written.
    pub stamp: Stamp,
    /// What was written.
    pub value: Option<Value>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The image's id.
    pub id: Uuid,
    /// The write that made it.
    pub created: Stamp,
    /// The write that deleted it. A deleted record has no fields.
    pub deleted: Option<Stamp>,
    fields: BTreeMap<String, Field>,
}

/// What a merge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Nothing new.
    Unchanged,
    /// The other had later writes.
    Changed,
    /// The id was created twice and ours was first: the other's writes are void.
    KeptOurs,
    /// The id was created twice and the other was first: ours is gone.
    TookTheirs,
}

impl Record {
    /// A new record without fields.
    pub fn new(id: Uuid, created: Stamp) -> Self {
        Self {
            id,
            created,
            deleted: None,
            fields: BTreeMap::new(),
        }
    }

    /// A field's value, if it is there and not removed.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).and_then(|field| field.value.as_ref())
    }

    /// When a field that is there was written.
    pub fn written_at(&self, key: &str) -> Option<Stamp> {
        let field = self.fields.get(key)?;
        field.value.as_ref().map(|_| field.stamp)
    }

    /// Every field that is there, in the order of names.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields
            .iter()
            .filter_map(|(key, field)| field.value.as_ref().map(|value| (key.as_str(), value)))
    }

    /// Writes a field; `None` removes it. An earlier stamp than the field's own, or any second write of
    /// [`DATA`], changes nothing.
    pub fn set(&mut self, key: &str, value: Option<Value>, stamp: Stamp) {
        if self.deleted.is_none() {
            self.merge_field(key, Field { stamp, value });
        }
    }

    /// Number of fields, removed ones included.
    pub fn field_count(&self) -> usize {
        self.fields.len()
    }

    /// Deletes the record for good.
    pub fn delete(&mut self, stamp: Stamp) {
        self.deleted = self.deleted.max(Some(stamp));
        self.fields.clear();
    }

    /// When and where a field was last written, or removed.
    pub fn stamp(&self, key: &str) -> Option<Stamp> {
        self.fields.get(key).map(|field| field.stamp)
    }

    /// The latest stamp in it.
    pub fn latest(&self) -> Stamp {
        let fields = self.fields.values().map(|field| field.stamp).max();
        self.created
            .max(self.deleted.unwrap_or(self.created))
            .max(fields.unwrap_or(self.created))
    }

    /// The latest stamp of one site in it.
    pub fn latest_of(&self, site: u64) -> Option<Stamp> {
        self.fields
            .values()
            .map(|field| field.stamp)
            .chain([self.created])
            .chain(self.deleted)
            .filter(|stamp| stamp.site() == site)
            .max()
    }

    /// What one site wrote to it after a time: a record with only those fields. None if that is nothing.
    pub fn written_since(&self, site: u64, unix_ms: u64) -> Option<Self> {
        let theirs = |stamp: &Stamp| stamp.site() == site && stamp.unix_ms() > unix_ms;
        let part = Self {
            id: self.id,
            created: self.created,
            deleted: self.deleted.filter(theirs),
            fields: self
                .fields
                .iter()
                .filter(|(_, field)| theirs(&field.stamp))
                .map(|(key, field)| (key.clone(), field.clone()))
                .collect(),
        };
        let some = theirs(&part.created) || part.deleted.is_some() || !part.fields.is_empty();
        some.then_some(part)
    }

    /// Takes in what another site knows of the same id.
    pub fn merge(&mut self, other: Self) -> Merge {
        debug_assert_eq!(self.id, other.id, "merging records of different images");
        if self.deleted.is_some() || other.deleted.is_some() {
            let before = (self.deleted, self.created);
            self.deleted = self.deleted.max(other.deleted);
            self.created = self.created.min(other.created);
            self.fields.clear();
            return if before == (self.deleted, self.created) {
                Merge::Unchanged
            } else {
                Merge::Changed
            };
        }
        match self.created.cmp(&other.created) {
            std::cmp::Ordering::Less => return Merge::KeptOurs,
            std::cmp::Ordering::Greater => {
                *self = other;
                return Merge::TookTheirs;
            }
            std::cmp::Ordering::Equal => {}
        }
        let mut changed = false;
        for (key, field) in other.fields {
            changed |= self.merge_field(&key, field);
        }
        if changed {
            Merge::Changed
        } else {
            Merge::Unchanged
        }
    }

    fn merge_field(&mut self, key: &str, field: Field) -> bool {
        match self.fields.get_mut(key) {
            None => {
                self.fields.insert(key.to_owned(), field);
                true
            }
            Some(own) => {
                let newer = if key == DATA {
                    field.stamp < own.stamp
                } else {
                    field.stamp > own.stamp
                };
                if newer {
                    *own = field;
                }
                newer
            }
        }
    }

    /// Forgets fields that were removed before `horizon_ms`. Every site must have seen the removal by
    /// then, or it comes back.
    pub fn prune(&mut self, horizon_ms: u64) {
        self.fields
            .retain(|_, field| field.value.is_some() || field.stamp.unix_ms() >= horizon_ms);
    }

    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(self.id.as_bytes());
        self.created.encode(&mut out);
        match self.deleted {
            None => out.push(0),
            Some(stamp) => {
                out.push(1);
                stamp.encode(&mut out);
            }
        }
        put_varint(&mut out, self.fields.len() as u64);
        for (key, field) in &self.fields {
            put_bytes(&mut out, key.as_bytes());
            field.stamp.encode(&mut out);
            encode_value(field.value.as_ref(), &mut out);
        }
        out
    }

    /// Decodes foreign bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("record version")?;
        if version != VERSION {
            return Err(DecodeError::Unknown {
                what: "record version",
                value: version.into(),
            });
        }
        let id = Uuid::from_bytes(reader.array("image id")?);
        let created = Stamp::decode(&mut reader)?;
        let deleted = match reader.u8("record deleted")? {
            0 => None,
            1 => Some(Stamp::decode(&mut reader)?),
            _ => {
                return Err(DecodeError::Invalid {
                    what: "record deleted",
                    rule: "0 or 1",
                });
            }
        };
        let count = reader.varint(FIELDS_MAX as u64, "field count")?;
        let mut fields = BTreeMap::new();
        for _ in 0..count {
            let key = reader.string(KEY_LEN_MAX, "field name")?;
            let stamp = Stamp::decode(&mut reader)?;
            let value = decode_value(&mut reader)?;
            if fields
                .last_key_value()
                .is_some_and(|(last, _): (&String, _)| last.as_str() >= key)
            {
                return Err(DecodeError::Invalid {
                    what: "fields",
                    rule: "they are in order",
                });
            }
            fields.insert(key.to_owned(), Field { stamp, value });
        }
        reader.finish("record")?;
        if deleted.is_some() && !fields.is_empty() {
            return Err(DecodeError::Invalid {
                what: "record",
                rule: "a deleted one has no fields",
            });
        }
        Ok(Self {
            id,
            created,
            deleted,
            fields,
        })
    }
}

fn encode_value(value: Option<&Value>, out: &mut Vec<u8>) {
    match value {
        None => out.push(0),
        Some(Value::Null) => out.push(1),
        Some(Value::Bool(false)) => out.push(2),
        Some(Value::Bool(true)) => out.push(3),
        Some(Value::Int(number)) => {
            out.push(4);
            put_varint(out, *number);
        }
        Some(Value::Text(text)) => {
            out.push(5);
            put_bytes(out, text.as_bytes());
        }
        Some(Value::Data(data)) => {
            out.push(6);
            out.extend_from_slice(data.manifest.as_bytes());
            put_varint(out, data.size);
            match data.virtual_size {
                None => out.push(0),
                Some(size) => {
                    out.push(1);
                    put_varint(out, size);
                }
            }
            out.extend_from_slice(&data.md5);
            out.extend_from_slice(&data.sha512);
        }
    }
}

fn decode_value(reader: &mut Reader<'_>) -> Result<Option<Value>, DecodeError> {
    Ok(Some(match reader.u8("value kind")? {
        0 => return Ok(None),
        1 => Value::Null,
        2 => Value::Bool(false),
        3 => Value::Bool(true),
        4 => Value::Int(reader.varint(u64::MAX, "number")?),
        5 => Value::Text(reader.string(TEXT_LEN_MAX, "text")?.to_owned()),
        6 => Value::Data(Data {
            manifest: ManifestId::from_bytes(reader.array("manifest id")?),
            size: reader.varint(IMAGE_SIZE_MAX, "image size")?,
            virtual_size: match reader.u8("virtual size")? {
                0 => None,
                1 => Some(reader.varint(u64::MAX, "virtual size")?),
                _ => {
                    return Err(DecodeError::Invalid {
                        what: "virtual size",
                        rule: "0 or 1",
                    });
                }
            },
            md5: reader.array("MD5")?,
            sha512: reader.array("SHA-512")?,
        }),
        other => {
            return Err(DecodeError::Unknown {
                what: "value kind",
                value: other.into(),
            });
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use proptest::prelude::*;

    /// Writes to one id by several sites, each with the record that it makes alone.
    #[derive(Debug, Clone)]
    enum Write {
        Set(u8, Option<u64>),
        Data(u64),
        Delete,
    }

    fn write() -> impl Strategy<Value = Write> {
        prop_oneof![
            6 => (0u8..4, any::<Option<u64>>()).prop_map(|(k, v)| Write::Set(k, v)),
            2 => (0..=IMAGE_SIZE_MAX).prop_map(Write::Data),
            1 => Just(Write::Delete),
        ]
    }

    fn stamp(site: u8, ms: u64) -> Stamp {
        Clock::new(&site.to_string()).tick(ms)
    }

    fn record(writes: &[(u8, u64, Write)], created: Stamp) -> Record {
        let mut record = Record::new(Uuid::nil(), created);
        for (site, ms, write) in writes {
            let stamp = stamp(*site, *ms);
            match write {
                Write::Set(key, value) => {
                    record.set(&key.to_string(), value.map(Value::Int), stamp);
                }
                Write::Data(size) => {
                    let manifest = ManifestId::of(&size.to_le_bytes());
                    let data = Data {
                        manifest,
                        size: *size,
                        virtual_size: None,
                        md5: [0; 16],
                        sha512: [0; 64],
                    };
                    record.set(DATA, Some(Value::Data(data)), stamp);
                }
                Write::Delete => record.delete(stamp),
            }
        }
        record
    }

    prop_compose! {
        /// Stamps are unique: the time numbers the writes of all records of a case.
        fn records()(
            writes in proptest::collection::vec(
                proptest::collection::vec((0u8..3, write()), 0..8), 3),
            created in proptest::array::uniform3(0u8..2),
        ) -> [Record; 3] {
            let mut ms = 10;
            let mut all = writes.into_iter().zip(created).map(|(writes, created)| {
                let writes: Vec<_> = writes.into_iter().map(|(site, write)| {
                    ms += 1;
                    (site, ms, write)
                }).collect();
                record(&writes, stamp(created, 1))
            });
            [(); 3].map(|()| all.next().expect("three"))
        }
    }

    fn merged(parts: &[&Record]) -> Record {
        let mut out = parts[0].clone();
        for part in &parts[1..] {
            out.merge((*part).clone());
        }
        out
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_idempotent([a, b, c] in records()) {
            let ab = merged(&[&a, &b]);
            prop_assert_eq!(&ab, &merged(&[&b, &a]));
            prop_assert_eq!(merged(&[&ab, &c]), merged(&[&a, &merged(&[&b, &c])]));
            prop_assert_eq!(&merged(&[&ab, &b]), &ab);
        }

        #[test]
        fn encoding_round_trips([a, _, _] in records()) {
            prop_assert_eq!(Record::decode(&a.encode()), Ok(a));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _any = Record::decode(&bytes);
        }
    }

    #[test]
    fn of_two_creations_the_first_wins_whole() {
        let a = record(&[(0, 20, Write::Set(1, Some(1)))], stamp(0, 5));
        let b = record(&[(1, 30, Write::Set(2, Some(2)))], stamp(1, 6));
        let mut ours = a.clone();
        assert_eq!(ours.merge(b.clone()), Merge::KeptOurs);
        assert_eq!(ours, a);
        let mut ours = b;
        assert_eq!(ours.merge(a.clone()), Merge::TookTheirs);
        assert_eq!(ours, a);
    }

    #[test]
    fn what_one_site_wrote_can_be_told_apart() {
        let (a, b) = (
            crate::clock::site_number("0"),
            crate::clock::site_number("1"),
        );
        let mut all = record(
            &[
                (0, 20, Write::Set(1, Some(1))),
                (0, 30, Write::Set(2, Some(2))),
                (1, 40, Write::Set(3, Some(3))),
            ],
            stamp(0, 5),
        );
        assert_eq!(all.latest_of(a), Some(stamp(0, 30)));
        assert_eq!(all.latest_of(b), Some(stamp(1, 40)));
        let part = all.written_since(a, 20).expect("one field");
        assert_eq!(part.values().map(|(key, _)| key).collect::<Vec<_>>(), ["2"]);
        assert_eq!(part.created, all.created);
        assert_eq!(all.written_since(a, 30), None);
        assert_eq!(all.written_since(a, 4).expect("created").field_count(), 2);
        all.delete(stamp(1, 50));
        assert_eq!(all.written_since(b, 0).and_then(|r| r.deleted), all.deleted);
    }

    #[test]
    fn data_is_written_once_and_the_dead_stay_dead() {
        let mut record = record(
            &[(0, 20, Write::Data(1)), (0, 30, Write::Data(2))],
            stamp(0, 5),
        );
        assert!(matches!(record.get(DATA), Some(Value::Data(data)) if data.size == 1));
        record.delete(stamp(0, 40));
        record.set("1", Some(Value::Null), stamp(0, 50));
        assert_eq!(record.values().count(), 0);
    }
}
