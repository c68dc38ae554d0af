//! VHD: a 512-byte big-endian footer, which a dynamic disk repeats at its start.
//!
//! A fixed VHD has the footer at its end alone. It starts with the guest's own first sector and
//! passes for what that is, `raw` or `gpt`, here as in Glance.

use super::fields::Fields;
use super::{Format, Unsafe, size::Size};

pub(super) const MAGIC: &[u8] = b"conectix";

const FOOTER_LEN: usize = 512;

/// The "current size" of the footer.
pub(super) fn read(head: &[u8]) -> Result<Size, Unsafe> {
    let footer = Fields::first(Format::Vhd, head, FOOTER_LEN)?;
    Size::stated(footer.be64(40)?)
}
