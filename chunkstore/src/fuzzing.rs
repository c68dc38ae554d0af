//! Entry points of the fuzz targets in `fuzz/`, for parsers that are not public.

use std::io;

use vitrail_proto::codec::Reader;
use vitrail_proto::frame::FrameHead;

use crate::disk::DiskFile;
use crate::error::Error;
use crate::pack::{EntryRef, PackId, assemble, read_entry, read_footer, scan};

/// The pack that [`read_pack`] takes its input for.
const PACK: PackId = PackId(1);

/// Reads `bytes` as recovery and a collection read a pack. Panics if that breaks a bound.
pub fn read_pack(bytes: &[u8]) {
    let file = MemoryFile(bytes);
    let len = bytes.len() as u64;
    let read = |entry: EntryRef| match read_entry(&file, entry) {
        Ok(frame) => Some(frame),
        Err(Error::Damaged(_)) => None,
        Err(error) => panic!("{error}"),
    };
    let mut end = 0;
    // An error is a pack of a later version.
    let scanned = scan(PACK, &file, 0, |entry, head| {
        assert!(entry.offset >= end, "entries overlap");
        end = entry.offset + u64::from(entry.len);
        assert!(end <= len, "an entry ends behind the file");
        let frame = read(entry).expect("a whole entry");
        let again = FrameHead::decode(&mut Reader::new(&frame));
        assert_eq!(again.as_ref(), Ok(&head));
        Ok(())
    });
    if let Ok(scanned) = scanned {
        assert!(scanned.end <= len && (end == 0 || scanned.end == end));
    }
    for (offset, len, _) in read_footer(&file, len)
        .expect("no I/O")
        .into_iter()
        .flatten()
    {
        read(EntryRef {
            pack: PACK,
            offset,
            len,
        });
    }
}

/// As [`read_pack`], with a header, checksums and a trailer that are right, so that what they protect is
/// reached. `input` is cut into frames, each after two bytes that tell its length, to a length of 0 or one
/// that is too large; what is left is the footer's body.
pub fn read_assembled_pack(input: &[u8]) {
    let mut frames = Vec::new();
    let mut rest = input;
    while let Some((len, tail)) = rest.split_first_chunk() {
        rest = tail;
        match tail.split_at_checked(u16::from_le_bytes(*len).into()) {
            None | Some(([], _)) => break,
            Some((frame, tail)) => {
                frames.push(frame);
                rest = tail;
            }
        }
    }
    read_pack(&assemble(PACK, &frames, rest));
}

struct MemoryFile<'a>(&'a [u8]);

impl DiskFile for MemoryFile<'_> {
    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = (offset as usize).checked_add(buffer.len());
        let found = end.and_then(|end| self.0.get(offset as usize..end));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
