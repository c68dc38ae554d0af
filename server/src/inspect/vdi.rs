//! VDI: a little-endian header at the start; its first 64 bytes are free text.

use super::fields::Fields;
use super::{Format, Unsafe, size::Size};

const HEADER_LEN: usize = 512;
const MAGIC_AT: usize = 64;
const MAGIC: [u8; 4] = 0xbeda_107f_u32.to_le_bytes();

pub(super) fn marks(head: &[u8]) -> bool {
    head.get(MAGIC_AT..)
        .is_some_and(|rest| rest.starts_with(&MAGIC))
}

/// The disk size of the header.
pub(super) fn read(head: &[u8]) -> Result<Size, Unsafe> {
    let header = Fields::first(Format::Vdi, head, HEADER_LEN)?;
    Size::stated(header.le64(0x170)?)
}
