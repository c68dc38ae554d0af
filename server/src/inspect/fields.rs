//! Integers out of foreign headers.

use super::{Format, Unsafe};

/// A header's bytes. Reading beyond them yields [`Unsafe::CutShort`], never a panic.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    format: Format,
}

impl<'a> Fields<'a> {
    /// The first `len` bytes of `bytes`, which must have that many.
    pub(super) fn first(format: Format, bytes: &'a [u8], len: usize) -> Result<Self, Unsafe> {
        let bytes = bytes.get(..len).ok_or(Unsafe::CutShort(format))?;
        Ok(Self { bytes, format })
    }

    pub(super) fn array<const N: usize>(self, at: usize) -> Result<[u8; N], Unsafe> {
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .ok_or(Unsafe::CutShort(self.format))
    }

    pub(super) fn be16(self, at: usize) -> Result<u16, Unsafe> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(super) fn be32(self, at: usize) -> Result<u32, Unsafe> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(super) fn be64(self, at: usize) -> Result<u64, Unsafe> {
        self.array(at).map(u64::from_be_bytes)
    }

    pub(super) fn le16(self, at: usize) -> Result<u16, Unsafe> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn le32(self, at: usize) -> Result<u32, Unsafe> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(super) fn le64(self, at: usize) -> Result<u64, Unsafe> {
        self.array(at).map(u64::from_le_bytes)
    }
}
