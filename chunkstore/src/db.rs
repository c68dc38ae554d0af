//! A small key-value interface over RocksDB, the only user of its API.
//!
//! A database has named *spaces* (column families), each an ordered map of bytes. Writes are atomic
//! batches. The store and the daemon's catalogue share one database, so they share its log and syncs.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    Direction, IteratorMode, LogLevel, WriteBatch, WriteOptions,
};

use crate::error::{Error, Result};

/// Bytes of memory that a database may use for its block cache and write buffers together.
pub const DB_MEMORY: u64 = 24 * 1024 * 1024;

/// An open database.
pub struct Db {
    inner: DB,
}

/// Changes that happen together or not at all.
#[derive(Default)]
pub struct Batch {
    inner: Vec<(&'static str, Change)>,
}

enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, space: &'static str, key: &[u8], value: Vec<u8>) {
        self.inner.push((space, Change::Put(key.to_vec(), value)));
    }

    /// Removes `key`; removing a missing key is no error.
    pub fn delete(&mut self, space: &'static str, key: &[u8]) {
        self.inner.push((space, Change::Delete(key.to_vec())));
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.inner.len()
    }
}

/// Whether a write survives a power cut when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced to disk on return, together with every write before it.
    Synced,
    /// Survives a crash of the process, not of the machine.
    Buffered,
}

/// A key and its value.
pub type Row = (Box<[u8]>, Box<[u8]>);

impl Db {
    /// Opens or makes the database in `path` with these spaces. Spaces that exist on disk and are not
    /// named are opened too and left alone.
    pub fn open(path: &Path, spaces: &[&'static str]) -> Result<Self> {
        let cache = Cache::new_lru_cache(DB_MEMORY as usize / 3).map_err(index_error)?;
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&cache);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_bloom_filter(10.0, false);

        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_db_write_buffer_size(DB_MEMORY as usize * 2 / 3);
        options.set_max_total_wal_size(64 * 1024 * 1024);
        options.set_max_open_files(256);
        // Debian's RocksDB aborts the process when it logs again after its log met a full disk.
        options.set_log_level(LogLevel::Fatal);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(256 * 1024);
        options.set_recycle_log_file_num(0);
        options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);

        let mut column_options = rocksdb::Options::default();
        column_options.set_block_based_table_factory(&blocks);
        column_options.set_compression_type(DBCompressionType::Zstd);
        column_options.set_write_buffer_size(DB_MEMORY as usize / 3);

        let mut names: Vec<String> = DB::list_cf(&options, path).unwrap_or_default();
        names.extend(spaces.iter().map(|s| (*s).to_owned()));
        names.push("default".to_owned());
        names.sort();
        names.dedup();
        let columns = names
            .into_iter()
            .map(|name| ColumnFamilyDescriptor::new(name, column_options.clone()));
        let inner = DB::open_cf_descriptors(&options, path, columns).map_err(index_error)?;
        Ok(Self { inner })
    }

    /// The value of `key`.
    pub fn get(&self, space: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner
            .get_cf(self.column(space)?, key)
            .map_err(index_error)
    }

    /// The values of many keys, in their order.
    pub fn get_many<'k>(
        &self,
        space: &'static str,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let column = self.column(space)?;
        let keys: Vec<_> = keys.into_iter().map(|key| (column, key)).collect();
        self.inner
            .multi_get_cf(keys)
            .into_iter()
            .map(|r| r.map_err(index_error))
            .collect()
    }

    /// All rows from `start` on in the order of keys, as of now. `start` may be empty.
    pub fn rows<'a>(
        &'a self,
        space: &'static str,
        start: &[u8],
    ) -> Result<impl Iterator<Item = Result<Row>> + use<'a>> {
        let mode = IteratorMode::From(start, Direction::Forward);
        let iterator = self.inner.iterator_cf(self.column(space)?, mode);
        Ok(iterator.map(|row| row.map_err(index_error)))
    }

    /// Applies `batch` whole.
    pub fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        let mut writes = WriteBatch::default();
        for (space, change) in batch.inner {
            let column = self.column(space)?;
            match change {
                Change::Put(key, value) => writes.put_cf(column, key, value),
                Change::Delete(key) => writes.delete_cf(column, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.inner.write_opt(writes, &options).map_err(index_error)
    }

    /// Merges the files of `space` and drops deleted rows from disk.
    pub fn compact(&self, space: &'static str) -> Result<()> {
        self.inner
            .compact_range_cf(self.column(space)?, None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn column(&self, space: &'static str) -> Result<&ColumnFamily> {
        self.inner
            .cf_handle(space)
            .ok_or_else(|| Error::Index(format!("space {space} was not opened")))
    }
}

fn index_error(error: rocksdb::Error) -> Error {
    let text = error.to_string();
    if text.contains("No space left on device") {
        Error::Full(text)
    } else {
        Error::Index(text)
    }
}
