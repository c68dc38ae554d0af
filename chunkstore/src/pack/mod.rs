//! Packs: append-only files of frames. The byte layout is in `docs/FORMAT.md`.

mod format;
mod read;
mod write;

use std::fmt;

pub(crate) use read::{ScanEnd, read_entry, read_footer, scan};
pub(crate) use write::PackWriter;

/// Number of a pack, unique in its store and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub u64);

impl PackId {
    /// Name of the pack's file.
    pub fn file_name(self) -> String {
        format!("{:016x}.pack", self.0)
    }

    /// The pack that a file name means.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".pack").filter(|d| d.len() == 16)?;
        u64::from_str_radix(digits, 16).ok().map(Self)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Where an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EntryRef {
    pub(crate) pack: PackId,
    /// Offset of the entry in the pack in bytes.
    pub(crate) offset: u64,
    /// Length of the entry in bytes, its head included.
    pub(crate) len: u32,
}
