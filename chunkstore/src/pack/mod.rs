//! Packs: append-only files of frames. The byte layout is in `docs/FORMAT.md`.

mod format;
mod read;
mod write;

use std::fmt;

use crate::error::Damage;

pub(crate) use format::{ENTRY_LEN_MAX, HEADER_LEN, assemble};
pub(crate) use read::{check_header, read_entry, read_footer, read_unchecked, scan};
pub(crate) use write::PackWriter;

/// Number of a pack, unique in its store and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub u64);

impl PackId {
    /// Name of the pack's file.
    pub fn file_name(self) -> String {
        format!("{:016x}.pack", self.0)
    }

    /// The pack that a file name means. Numbers from 2^63 on are nobody's: counting from 1 never
    /// gets there, and so there is always a next one.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".pack")?;
        let id = Self(u64::from_str_radix(digits, 16).ok()?);
        (id.0 < 1 << 63 && id.file_name() == name).then_some(id)
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

impl EntryRef {
    /// Says what is wrong with it.
    pub(crate) fn damage(&self, reason: String) -> Damage {
        Damage {
            pack: self.pack,
            offset: self.offset,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_name_of_a_pack_is_one() {
        let id = PackId(0xab);
        assert_eq!(id.file_name(), "00000000000000ab.pack");
        assert_eq!(PackId::from_file_name(&id.file_name()), Some(id));
        for name in [
            "00000000000000AB.pack",
            "+0000000000000ab.pack",
            "ab.pack",
            "00000000000000ab",
            "ffffffffffffffff.pack",
        ] {
            assert_eq!(PackId::from_file_name(name), None, "{name}");
        }
    }
}
