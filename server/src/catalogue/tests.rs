//! What the catalogue forgets, and what it does not take in.

use tempfile::TempDir;
use vitrail_chunkstore::Options;

use super::*;

const DAY_MS: u64 = 24 * 3600 * 1000;

fn catalogue() -> (TempDir, Catalogue) {
    let directory = TempDir::new().unwrap();
    let spaces = [SPACE, copies::SPACE];
    let store = Store::open(directory.path(), Options::default(), &spaces).unwrap();
    let catalogue = Catalogue::open(&store, "paris").unwrap();
    (directory, catalogue)
}

/// A record that another site made so many days ago, and from which it removed a property at once.
fn removed(days: u64) -> Record {
    let stamp = Clock::new("lyon").tick(now_ms() - days * DAY_MS);
    let mut record = Record::new(Uuid::from_u128(1), stamp);
    record.set("p:gone", None, stamp);
    record
}

/// Whether the removal is still remembered after a write here, if others were heard of so many days ago.
fn remembers(removed_days: u64, contact_days: Option<u64>) -> bool {
    let (_directory, catalogue) = catalogue();
    let record = removed(removed_days);
    let id = record.id;
    catalogue.merge(record).unwrap();
    if let Some(days) = contact_days {
        catalogue.set_contact(now_ms() - days * DAY_MS);
    }
    let rename = |_: &Image| {
        let mut changes = Changes::new();
        changes.set_text(field::NAME, Some("new".into()));
        Ok::<_, CatalogueError>(changes)
    };
    catalogue.modify(id, rename).unwrap();
    let record = catalogue.record(id).unwrap().unwrap();
    record.stamp("p:gone").is_some()
}

#[test]
fn a_removal_is_remembered_for_30_days_before_the_last_contact() {
    assert!(remembers(29, None));
    assert!(!remembers(31, None), "a site that is alone");
    assert!(!remembers(31, Some(0)));
    assert!(remembers(31, Some(2)));
    assert!(!remembers(33, Some(2)));
}

#[test]
fn what_nobody_could_read_back_is_not_taken_in() {
    let (_directory, catalogue) = catalogue();
    let stamp = Clock::new("lyon").tick(now_ms());
    let half = |side: &str| {
        let mut record = Record::new(Uuid::from_u128(1), stamp);
        for i in 0..FIELDS_MAX * 2 / 3 {
            record.set(&format!("p:{side}{i}"), Some(Value::Null), stamp);
        }
        record
    };
    catalogue.merge(half("a")).unwrap();
    let merged = catalogue.merge(half("b"));
    assert!(matches!(merged, Err(CatalogueError::TooLong(..))));
    let kept = catalogue.record(Uuid::from_u128(1)).unwrap().unwrap();
    assert_eq!(kept.field_count(), FIELDS_MAX * 2 / 3);
}

#[test]
fn a_write_that_would_make_a_record_too_long_is_refused() {
    let (_directory, catalogue) = catalogue();
    let id = Uuid::from_u128(1);
    let allow = || Ok::<_, CatalogueError>(());
    catalogue.create(id, Changes::new(), allow).unwrap();
    let add = |key: String| {
        let result = catalogue.modify(id, |_| {
            let mut changes = Changes::new();
            let text = Value::Text("x".repeat(60_000));
            changes.writes.insert(key.clone(), Some(text));
            Ok::<_, CatalogueError>(changes)
        });
        result.map(|_| ())
    };
    let result = (0..100).try_for_each(|i| add(format!("p:{i}")));
    assert!(matches!(result, Err(CatalogueError::TooLong(..))));
    assert!(catalogue.record(id).unwrap().unwrap().encode().len() <= WRITTEN_LEN_MAX);
}
