//! Reading packs: one entry, the footer, or everything from some point on.

use bytes::Bytes;
use vitrail_proto::codec::{DecodeError, Reader};
use vitrail_proto::frame::FrameHead;

use super::format::{
    ENTRY_HEAD_LEN, EntryHead, FOOTER_LEN_MAX, HEADER_LEN, TRAILER_LEN, checksum, decode_footer,
    decode_header, decode_trailer,
};
use super::{EntryRef, PackId};
use crate::disk::DiskFile;
use crate::error::{Damage, Error, Result};

/// Reads the frame of an entry and checks its checksum.
pub(crate) fn read_entry(file: &dyn DiskFile, entry: EntryRef) -> Result<Bytes> {
    let (head, frame) = read_parts(file, entry)?;
    if head.checksum != checksum(&frame) {
        return Err(entry.damage("the checksum is wrong".into()).into());
    }
    Ok(frame)
}

/// The same without the checksum, for a reader that is going to check every chunk in the frame: hashing the
/// frame as well would cost it half as much again.
pub(crate) fn read_unchecked(file: &dyn DiskFile, entry: EntryRef) -> Result<Bytes> {
    read_parts(file, entry).map(|(_, frame)| frame)
}

fn read_parts(file: &dyn DiskFile, entry: EntryRef) -> Result<(EntryHead, Bytes)> {
    // At most ENTRY_LEN_MAX, whether the length comes from a row, a footer or an entry's head.
    let bytes = file
        .read(entry.offset, entry.len as usize)
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                entry.damage("the pack ends before it".into()).into()
            }
            _ => Error::io(format!("reading pack {}", entry.pack), e),
        })?;
    let head = EntryHead::decode(&bytes).map_err(|e| entry.damage(e.to_string()))?;
    let frame = Bytes::from(bytes).slice(ENTRY_HEAD_LEN as usize..);
    if head.footer || head.len as usize != frame.len() {
        return Err(entry
            .damage("it is not the entry that the index names".into())
            .into());
    }
    Ok((head, frame))
}

/// Checks that a file begins as the pack `id` does.
pub(crate) fn check_header(id: PackId, file: &dyn DiskFile) -> Result<()> {
    let damaged = |reason: String| Damage {
        pack: id,
        offset: 0,
        reason,
    };
    let mut header = [0; HEADER_LEN as usize];
    file.read_at(0, &mut header).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => damaged("the header is cut off".into()).into(),
        _ => Error::io(format!("reading pack {id}"), e),
    })?;
    match decode_header(&header) {
        Ok(found) if found == id => Ok(()),
        Ok(found) => Err(damaged(format!("it says that it is pack {found}")).into()),
        // Not damaged: somebody else's, to be left alone.
        Err(error @ DecodeError::Unknown { .. }) => Err(error.into()),
        Err(error) => Err(damaged(error.to_string()).into()),
    }
}

/// The entries of a sealed pack of `len` bytes by its footer, or none if it is not sealed. A damaged
/// footer counts as none: the entries can still be scanned.
pub(crate) fn read_footer(
    file: &dyn DiskFile,
    len: u64,
) -> std::io::Result<Option<Vec<(u64, u32, FrameHead)>>> {
    match try_read_footer(file, len) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        other => other,
    }
}

fn try_read_footer(
    file: &dyn DiskFile,
    len: u64,
) -> std::io::Result<Option<Vec<(u64, u32, FrameHead)>>> {
    if len < HEADER_LEN + ENTRY_HEAD_LEN + TRAILER_LEN {
        return Ok(None);
    }
    let mut trailer = [0; TRAILER_LEN as usize];
    file.read_at(len - TRAILER_LEN, &mut trailer)?;
    let Some(offset) = decode_trailer(&trailer) else {
        return Ok(None);
    };
    let footer_len = (len - TRAILER_LEN).checked_sub(offset);
    let Some(footer_len) = footer_len.filter(|&l| (ENTRY_HEAD_LEN..=FOOTER_LEN_MAX).contains(&l))
    else {
        return Ok(None);
    };
    let mut footer = vec![0; footer_len as usize];
    file.read_at(offset, &mut footer)?;
    let body = &footer[ENTRY_HEAD_LEN as usize..];
    let entries = EntryHead::decode(&footer)
        .ok()
        .filter(|head| head.footer && head.len as usize == body.len())
        .filter(|head| head.checksum == checksum(body))
        .and_then(|_| decode_footer(body, offset).ok());
    Ok(entries)
}

/// What a scan found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// End of the last whole entry, or of the header if there is none; 0 if there is neither.
    pub(crate) end: u64,
    /// The first place that is not a whole, right entry.
    pub(crate) damage: Option<Damage>,
}

/// Calls `each` for every whole entry from `start` on, up to the footer or the end of the file. An
/// entry whose bytes are wrong is stepped over as long as its head tells where the next one is.
/// `start` is 0, or the end of an entry or of the header. Reads the file once, an entry at a time.
pub(crate) fn scan(
    id: PackId,
    file: &dyn DiskFile,
    start: u64,
    mut each: impl FnMut(EntryRef, FrameHead) -> Result<()>,
) -> Result<Scan> {
    let io = |e| Error::io(format!("reading pack {id}"), e);
    let len = file.len().map_err(io)?;
    let mut scan = Scan {
        end: start,
        damage: None,
    };
    if start < HEADER_LEN {
        match check_header(id, file) {
            Ok(()) => scan.end = HEADER_LEN,
            Err(Error::Damaged(damage)) => scan.damage = Some(damage),
            Err(error) => return Err(error),
        }
    }
    let mut at = start.max(HEADER_LEN);
    while at < len {
        let damaged = move |reason: String| Damage {
            pack: id,
            offset: at,
            reason,
        };
        let mut head = [0; ENTRY_HEAD_LEN as usize];
        if len - at < ENTRY_HEAD_LEN {
            scan.damage
                .get_or_insert(damaged("an entry is cut off".into()));
            break;
        }
        file.read_at(at, &mut head).map_err(io)?;
        let head = match EntryHead::decode(&head) {
            Ok(head) if head.footer => break,
            Ok(head) => head,
            Err(error) => {
                scan.damage.get_or_insert(damaged(error.to_string()));
                break;
            }
        };
        let entry_len = ENTRY_HEAD_LEN + u64::from(head.len);
        if len - at < entry_len {
            scan.damage
                .get_or_insert(damaged("an entry is cut off".into()));
            break;
        }
        let entry = EntryRef {
            pack: id,
            offset: at,
            len: entry_len as u32,
        };
        at += entry_len;
        let frame = match read_entry(file, entry) {
            Ok(frame) => frame,
            Err(Error::Damaged(damage)) => {
                scan.damage.get_or_insert(damage);
                continue;
            }
            Err(error) => return Err(error),
        };
        match FrameHead::decode(&mut Reader::new(&frame)) {
            Ok(head) => {
                each(entry, head)?;
                scan.end = at;
            }
            Err(error) => {
                scan.damage.get_or_insert(entry.damage(error.to_string()));
            }
        }
    }
    Ok(scan)
}
