//! Guessing a disk format from a file's magic bytes.
//!
//! Only for advice to people: the site inspects what it receives and decides.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes at the start that hold all magics but one: ISO 9660's comes last, at 32 KiB.
const HEAD_LEN: u64 = 0x8006;

/// Bytes of the footer of a fixed-size VHD, which has its magic at the end.
const FOOTER_LEN: u64 = 512;

/// Format, offset of the magic from the start, magic.
const MAGICS: [(&str, usize, &[u8]); 8] = [
    ("qcow2", 0, b"QFI\xfb"),
    ("vmdk", 0, b"KDMV"),
    ("vhdx", 0, b"vhdxfile"),
    ("vhd", 0, b"conectix"),
    ("ploop", 0, b"WithoutFreeSpace"),
    ("ploop", 0, b"WithouFreSpacExt"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("iso", 0x8001, b"CD001"),
];

/// The disk format that a file looks like, by the names of the Image API; `raw` if it has no
/// known magic.
///
/// # Errors
/// If the file cannot be read.
pub fn guess(file: &mut File) -> io::Result<&'static str> {
    let mut head = Vec::new();
    file.rewind()?;
    file.by_ref().take(HEAD_LEN).read_to_end(&mut head)?;
    for (format, offset, magic) in MAGICS {
        if head
            .get(offset..)
            .is_some_and(|bytes| bytes.starts_with(magic))
        {
            return Ok(format);
        }
    }
    let len = file.seek(SeekFrom::End(0))?;
    let mut footer = Vec::new();
    file.seek(SeekFrom::Start(len.saturating_sub(FOOTER_LEN)))?;
    file.by_ref().take(FOOTER_LEN).read_to_end(&mut footer)?;
    Ok(if footer.starts_with(b"conectix") {
        "vhd"
    } else {
        "raw"
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn guess_with(len: u64, offset: u64, magic: &[u8]) -> &'static str {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file.write_all_at(magic, offset).unwrap();
        guess(&mut file).unwrap()
    }

    #[test]
    fn every_magic_is_found_in_its_place_only() {
        for (format, offset, magic) in MAGICS {
            assert_eq!(guess_with(100_000, offset as u64, magic), format);
            assert_eq!(guess_with(100_000, offset as u64 + 1, magic), "raw");
        }
        assert_eq!(
            guess_with(100_000, 100_000 - FOOTER_LEN, b"conectix"),
            "vhd"
        );
    }

    #[test]
    fn short_files_are_raw() {
        for len in [0, 1, 511, 0x8001] {
            assert_eq!(guess_with(len, 0, b""), "raw");
        }
    }
}
