//! The formats that can be told apart, and how a stream betrays one.

use std::fmt;

use super::{iso, luks, mbr, qcow2, vdi, vhd, vhdx, vmdk};

/// A disk image format that a stream can be recognised as.
///
/// Ordered as the names of several matches are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Nothing known: the bytes of the disk itself, or anything else.
    Raw,
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2,
    /// QEMU enhanced disk, never accepted.
    Qed,
    /// Virtual PC, with its footer repeated in front (a dynamic disk).
    Vhd,
    /// Hyper-V.
    Vhdx,
    /// VMware, in one file or as a descriptor of others.
    Vmdk,
    /// VirtualBox.
    Vdi,
    /// ISO 9660 or UDF.
    Iso,
    /// A partitioned disk: GPT behind its protective MBR, or MBR alone.
    Gpt,
    /// LUKS, an encrypted volume.
    Luks,
}

impl Format {
    const ALL: [Format; 10] = [
        Self::Raw,
        Self::Qcow2,
        Self::Qed,
        Self::Vhd,
        Self::Vhdx,
        Self::Vmdk,
        Self::Vdi,
        Self::Iso,
        Self::Gpt,
        Self::Luks,
    ];

    /// The format that an image's `disk_format` promises, or `None` for one that leaves no mark in
    /// its bytes (`ami`, `ari`, `aki`, `ploop`, and whatever an operator adds).
    pub fn from_disk_format(disk_format: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == disk_format)
    }

    /// The format's name, as in `disk_format`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Qed => "qed",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Iso => "iso",
            Self::Gpt => "gpt",
            Self::Luks => "luks",
        }
    }

    /// Every format except raw whose mark `head`, the start of a stream, bears.
    ///
    /// At most one claims the very first bytes; `Vdi`, `Iso` and `Gpt` look further in and can
    /// coincide with it and with each other.
    pub(super) fn marks_in(head: &[u8]) -> Vec<Self> {
        Self::ALL
            .into_iter()
            .filter(|format| format.marks(head))
            .collect()
    }

    fn marks(self, head: &[u8]) -> bool {
        match self {
            Self::Raw => false,
            Self::Qcow2 => head.starts_with(qcow2::MAGIC),
            Self::Qed => head.starts_with(b"QED\0"),
            Self::Vhd => head.starts_with(vhd::MAGIC),
            Self::Vhdx => head.starts_with(vhdx::MAGIC),
            Self::Vmdk => head.starts_with(vmdk::MAGIC) || vmdk::is_bare_descriptor(head),
            Self::Vdi => vdi::marks(head),
            Self::Iso => iso::marks(head),
            Self::Gpt => mbr::marks(head),
            Self::Luks => head.starts_with(luks::MAGIC),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
