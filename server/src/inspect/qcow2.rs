//! qcow2: a big-endian header at the start (QEMU's `docs/interop/qcow2.rst`).

use super::fields::Fields;
use super::{Format, Unsafe, size::Size};

pub(super) const MAGIC: &[u8] = b"QFI\xfb";

/// Enough for the fields read below; every real image is longer, as a cluster has at least this.
const HEADER_LEN: usize = 512;

/// Incompatible feature bit: the guest's data is in another file.
const DATA_FILE: u64 = 1 << 2;
/// Dirty, corrupt, external data file, compression type. Extended L2 entries are not among them.
const KNOWN_FEATURES: u64 = 0b1111;

/// The virtual size, unless the image leads to another file or has features not known here.
pub(super) fn read(head: &[u8]) -> Result<Size, Unsafe> {
    let header = Fields::first(Format::Qcow2, head, HEADER_LEN)?;
    let version = header.be32(4)?;
    let backing_file_offset = header.be64(8)?;
    let virtual_size = header.be64(24)?;
    // Version 2 ends at byte 72: what follows there is an extension, not the feature bits.
    let features = match version {
        2 => 0,
        3 => header.be64(72)?,
        _ => {
            return Err(Unsafe::Version {
                format: Format::Qcow2,
                version,
            });
        }
    };
    if backing_file_offset != 0 {
        return Err(Unsafe::BackingFile);
    }
    if features & DATA_FILE != 0 {
        return Err(Unsafe::DataFile);
    }
    if features & !KNOWN_FEATURES != 0 {
        return Err(Unsafe::UnknownFeatures(features & !KNOWN_FEATURES));
    }
    Size::stated(virtual_size)
}
