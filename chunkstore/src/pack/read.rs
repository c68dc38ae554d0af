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
    let damaged = |reason: String| Damage {
        pack: entry.pack,
        offset: entry.offset,
        reason,
    };
    // The length comes from our own index, which the frame format bounds.
    let mut bytes = vec![0; entry.len as usize];
    file.read_at(entry.offset, &mut bytes)
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("the pack ends before it".into()).into(),
            _ => Error::io(format!("reading pack {}", entry.pack), e),
        })?;
    let head = EntryHead::decode(&bytes).map_err(|e| damaged(e.to_string()))?;
    let frame = Bytes::from(bytes).slice(ENTRY_HEAD_LEN as usize..);
    if head.footer || head.len as usize != frame.len() {
        return Err(damaged("it is not the entry that the index names".into()).into());
    }
    if head.checksum != checksum(&frame) {
        return Err(damaged("the checksum is wrong".into()).into());
    }
    Ok(frame)
}

/// The entries of a sealed pack by its footer, or none if it is not sealed. A damaged footer counts
/// as none: the entries can still be scanned.
pub(crate) fn read_footer(
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
        .filter(|head| head.footer && head.checksum == checksum(body))
        .and_then(|_| decode_footer(body, offset).ok());
    Ok(entries)
}

/// Why a scan ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ScanEnd {
    /// At the end of the file or at a footer.
    Complete,
    /// At bytes that are not a whole, right entry.
    Damaged(String),
}

/// Calls `each` for every whole entry from `start` (0 for the beginning) to the end, and tells where
/// and why it ended. Reads the file once, an entry at a time.
pub(crate) fn scan(
    id: PackId,
    file: &dyn DiskFile,
    start: u64,
    mut each: impl FnMut(EntryRef, FrameHead, Bytes) -> Result<()>,
) -> Result<(u64, ScanEnd)> {
    let io = |e| Error::io(format!("reading pack {id}"), e);
    let len = file.len().map_err(io)?;
    let mut at = start;
    if at < HEADER_LEN {
        if len < HEADER_LEN {
            return Ok((0, ScanEnd::Damaged("the header is cut off".into())));
        }
        let mut header = [0; HEADER_LEN as usize];
        file.read_at(0, &mut header).map_err(io)?;
        match decode_header(&header) {
            Ok(found) if found == id => {}
            Ok(found) => return Ok((0, ScanEnd::Damaged(format!("it is pack {found}")))),
            Err(error @ DecodeError::Unknown { .. }) => return Err(error.into()),
            Err(error) => return Ok((0, ScanEnd::Damaged(error.to_string()))),
        }
        at = HEADER_LEN;
    }
    while at < len {
        if len - at < ENTRY_HEAD_LEN {
            return Ok((at, ScanEnd::Damaged("an entry is cut off".into())));
        }
        let mut head = [0; ENTRY_HEAD_LEN as usize];
        file.read_at(at, &mut head).map_err(io)?;
        let head = match EntryHead::decode(&head) {
            Ok(head) => head,
            Err(error) => return Ok((at, ScanEnd::Damaged(error.to_string()))),
        };
        if head.footer {
            return Ok((at, ScanEnd::Complete));
        }
        let entry_len = ENTRY_HEAD_LEN + u64::from(head.len);
        if len - at < entry_len {
            return Ok((at, ScanEnd::Damaged("an entry is cut off".into())));
        }
        let entry = EntryRef {
            pack: id,
            offset: at,
            len: entry_len as u32,
        };
        let frame = match read_entry(file, entry) {
            Ok(frame) => frame,
            Err(Error::Damaged(damage)) => return Ok((at, ScanEnd::Damaged(damage.reason))),
            Err(error) => return Err(error),
        };
        match FrameHead::decode(&mut Reader::new(&frame)) {
            Ok(head) => each(entry, head, frame)?,
            Err(error) => return Ok((at, ScanEnd::Damaged(error.to_string()))),
        }
        at += entry_len;
    }
    Ok((at, ScanEnd::Complete))
}
