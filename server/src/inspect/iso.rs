//! ISO 9660 (ECMA-119) and UDF (ECMA-167): volume descriptors of 2 KiB each from byte 32,768 on.
//! Only the first is looked at.

use super::fields::Fields;
use super::{Format, Unsafe, size::Size};

const DESCRIPTOR_AT: usize = 32 << 10;
const DESCRIPTOR_LEN: usize = 2 << 10;
/// Standard identifiers of ISO 9660 and of the two versions of UDF.
const IDENTIFIERS: [&[u8]; 3] = [b"CD001", b"NSR02", b"NSR03"];
/// The descriptor type that gives a volume's size.
const PRIMARY: u8 = 1;

pub(super) fn marks(head: &[u8]) -> bool {
    head.get(DESCRIPTOR_AT + 1..)
        .is_some_and(|rest| IDENTIFIERS.iter().any(|id| rest.starts_with(id)))
}

/// The volume's blocks times their size, if the first descriptor is the primary one.
pub(super) fn read(head: &[u8]) -> Result<Size, Unsafe> {
    let descriptor = head.get(DESCRIPTOR_AT..).unwrap_or_default();
    let descriptor = Fields::first(Format::Iso, descriptor, DESCRIPTOR_LEN)?;
    let [kind] = descriptor.array(0)?;
    if kind != PRIMARY {
        return Size::stated(0);
    }
    // Both numbers are stored twice, little-endian first.
    let blocks = u64::from(descriptor.le32(80)?);
    let block_len = u64::from(descriptor.le16(128)?);
    Size::stated(blocks * block_len)
}
