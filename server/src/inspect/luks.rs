//! LUKS version 1: a big-endian header and eight key slots, then the encrypted disk.

use super::fields::Fields;
use super::{Format, Unsafe, size::Size};

pub(super) const MAGIC: &[u8] = b"LUKS\xba\xbe";

/// The header of 208 bytes and eight key slots of 48.
const HEADER_LEN: usize = 592;
const SECTOR_LEN: u64 = 512;

/// What follows the header and the key material.
pub(super) fn read(head: &[u8]) -> Result<Size, Unsafe> {
    let header = Fields::first(Format::Luks, head, HEADER_LEN)?;
    match header.be16(6)? {
        1 => Ok(Size::StreamWithout(
            u64::from(header.be32(104)?) * SECTOR_LEN,
        )),
        version => Err(Unsafe::Version {
            format: Format::Luks,
            version: version.into(),
        }),
    }
}
