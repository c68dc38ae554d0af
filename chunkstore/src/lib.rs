//! A content-addressed chunk store for disk images: one directory, no network.
//!
//! Images go in through [`Ingest`], which cuts a stream into chunks and holes, and come out through
//! [`ImageReader`], which verifies what it returns. In between, [`Store`] keeps chunks in append-only packs,
//! encoded as the frames that also go over the wire, and an index in RocksDB. [`gc`] reclaims what
//! nothing names any more and [`verify`] reads everything back. The layout on disk and the order of writes
//! are in `docs/FORMAT.md`.
//!
//! Everything here blocks; callers with an async runtime call it from blocking threads. All long-lived
//! memory (decoded frames, ingest buffers, read-ahead) is drawn from one [`MemoryBudget`].

pub mod chunker;
mod compact;
pub mod db;
mod directory;
pub mod disk;
mod error;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod gc;
pub mod ingest;
mod lease;
pub mod memory;
mod pack;
mod reader;
mod recover;
mod relay;
mod rows;
mod stats;
mod store;
pub mod verify;
mod writer;
mod writing;

pub use directory::FORMAT_VERSION;
pub use error::{Damage, Error, Result};
pub use ingest::{Ingest, Ingested};
pub use lease::Lease;
pub use memory::MemoryBudget;
pub use pack::PackId;
pub use reader::{ImageReader, UNIT_DATA_MAX, Unit};
pub use stats::Stats;
pub use store::{Options, Store};
pub use writer::Writer;
