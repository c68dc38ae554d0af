//! Refusals before the end of the stream.

use super::images::{self, DESCRIPTOR, PROTECTIVE, with};
use super::{Rules, bare};
use crate::inspect::Inspector;

/// How many bytes of `image`, followed by zeros up to 4 MiB, pass before it is refused.
fn refused_after(image: &[u8], disk_format: &str) -> Option<usize> {
    let image = images::padded(image.to_vec(), 4 << 20);
    let mut inspector = Inspector::new();
    let mut seen = 0;
    for piece in image.chunks(4096) {
        inspector.push(piece);
        seen += piece.len();
        if inspector
            .refusal_so_far(bare(disk_format), Rules::default())
            .is_some()
        {
            return Some(seen);
        }
    }
    None
}

#[test]
fn a_mismatch_shows_with_the_head() {
    let head_len = Some(64 << 10);
    assert_eq!(refused_after(&[], "qcow2"), head_len);
    assert_eq!(refused_after(&images::qcow2(3), "vmdk"), head_len);
    assert_eq!(refused_after(&images::mbr(&[PROTECTIVE]), "ami"), head_len);
}

#[test]
fn unsafe_content_shows_where_it_lies() {
    let backing = with(images::qcow2(3), images::QCOW2_BACKING_FILE_OFFSET, &[1]);
    assert_eq!(refused_after(&backing, "raw"), Some(64 << 10));
    let regions = with(images::vhdx(), images::VHDX_REGIONS, b"x");
    assert_eq!(refused_after(&regions, "vhdx"), Some(256 << 10));
    let pathful = DESCRIPTOR.replace("disk.vmdk", "/dev/sda");
    let descriptor = with(
        images::vmdk(&pathful),
        images::VMDK_DESCRIPTOR_LEN,
        &u64::MAX.to_le_bytes(),
    );
    assert_eq!(refused_after(&descriptor, "vmdk"), Some((1 << 20) + 4096));
}

#[test]
fn what_will_be_accepted_is_never_refused() {
    for (image, disk_format) in [
        (images::qcow2(3), "qcow2"),
        (images::qcow2(3), "raw"),
        (images::vhdx(), "vhdx"),
        (images::vmdk(DESCRIPTOR), "vmdk"),
        (images::iso(20, 2048), "iso"),
    ] {
        assert_eq!(refused_after(&image, disk_format), None, "{disk_format}");
    }
    // The footer may still come.
    assert_eq!(refused_after(&images::vmdk_stream(4 << 20), "vmdk"), None);
}
