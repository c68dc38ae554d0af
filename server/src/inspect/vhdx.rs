//! VHDX: little-endian tables that lead from one to the next (MS-VHDX): the region table at a
//! fixed place, the metadata table it points to, and the metadata item that holds the size.

use super::capture::Capture;
use super::fields::Fields;
use super::{Format, Unsafe, size::Size};

pub(super) const MAGIC: &[u8] = b"vhdxfile";

const REGION_TABLE_AT: u64 = 192 << 10;
/// Length of either table.
const TABLE_LEN: usize = 64 << 10;
const ENTRY_LEN: usize = 32;
const ENTRIES_MAX: u32 = 2047;

const REGION_ENTRIES_AT: usize = 16;
/// 8B7CA206-4790-4B9A-B8FE-575F050F886E as stored.
const METADATA_REGION: [u8; 16] =
    *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";

const METADATA_ENTRIES_AT: usize = 32;
/// 2FA54224-CD1B-4876-B211-5DBED83BF4B8 as stored.
const VIRTUAL_DISK_SIZE: [u8; 16] =
    *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
const SIZE_LEN: usize = 8;

/// The tables as they are followed. Each step lies further on in the stream than the one before
/// it, as it must in a valid file, so that nothing can point back or to itself.
#[derive(Debug)]
pub(super) enum Tables {
    Following(Step, Capture),
    Followed(Result<Size, Unsafe>),
}

/// What is being captured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Regions,
    Metadata,
    VirtualDiskSize,
}

impl Tables {
    /// Starts from the stream's `head`, which must end before the region table.
    pub(super) fn new(head: &[u8]) -> Self {
        let regions = Capture::new(REGION_TABLE_AT, TABLE_LEN);
        let mut tables = Self::Following(Step::Regions, regions);
        tables.push(head);
        tables
    }

    pub(super) fn push(&mut self, mut piece: &[u8]) {
        while !piece.is_empty()
            && let Self::Following(step, capture) = self
        {
            piece = capture.take(piece);
            if capture.is_full() {
                let next = match step {
                    Step::Regions => find_metadata(capture.bytes()),
                    Step::Metadata => find_virtual_disk_size(capture.bytes()),
                    Step::VirtualDiskSize => read_virtual_disk_size(capture.bytes()),
                };
                *self = next.unwrap_or_else(|bad| Self::Followed(Err(bad)));
            }
        }
    }

    /// What is known to be wrong before the end.
    pub(super) fn so_far(&self) -> Result<(), Unsafe> {
        match self {
            Self::Following(..) => Ok(()),
            Self::Followed(size) => size.clone().map(drop),
        }
    }

    pub(super) fn finish(self) -> Result<Size, Unsafe> {
        match self {
            Self::Following(..) => Err(Unsafe::CutShort(Format::Vhdx)),
            Self::Followed(size) => size,
        }
    }
}

fn find_metadata(regions: &[u8]) -> Result<Tables, Unsafe> {
    let table = Fields::first(Format::Vhdx, regions, TABLE_LEN)?;
    if table.array(0)? != *b"regi" {
        return Err(Unsafe::Vhdx("the region table has no signature"));
    }
    let entry = find_entry(table, REGION_ENTRIES_AT, table.le32(8)?, METADATA_REGION)?;
    let skip = table
        .le64(entry + 16)?
        .checked_sub(REGION_TABLE_AT + TABLE_LEN as u64)
        .ok_or(Unsafe::Vhdx(
            "the metadata lie before the end of the region table",
        ))?;
    Ok(Tables::Following(
        Step::Metadata,
        Capture::new(skip, TABLE_LEN),
    ))
}

fn find_virtual_disk_size(metadata: &[u8]) -> Result<Tables, Unsafe> {
    let table = Fields::first(Format::Vhdx, metadata, TABLE_LEN)?;
    if table.array(0)? != *b"metadata" {
        return Err(Unsafe::Vhdx("the metadata table has no signature"));
    }
    let count = table.le16(10)?.into();
    let entry = find_entry(table, METADATA_ENTRIES_AT, count, VIRTUAL_DISK_SIZE)?;
    let skip = u64::from(table.le32(entry + 16)?)
        .checked_sub(TABLE_LEN as u64)
        .ok_or(Unsafe::Vhdx(
            "the virtual disk size lies inside the metadata table",
        ))?;
    if table.le32(entry + 20)? != SIZE_LEN as u32 {
        return Err(Unsafe::Vhdx("the virtual disk size is not of 8 bytes"));
    }
    Ok(Tables::Following(
        Step::VirtualDiskSize,
        Capture::new(skip, SIZE_LEN),
    ))
}

fn read_virtual_disk_size(item: &[u8]) -> Result<Tables, Unsafe> {
    let size = Fields::first(Format::Vhdx, item, SIZE_LEN)?.le64(0)?;
    Ok(Tables::Followed(Size::stated(size)))
}

/// Where in `table` the first of `count` entries with this identifier starts.
fn find_entry(
    table: Fields<'_>,
    entries_at: usize,
    count: u32,
    id: [u8; 16],
) -> Result<usize, Unsafe> {
    if count > ENTRIES_MAX {
        return Err(Unsafe::Vhdx("a table has more than 2047 entries"));
    }
    for index in 0..count as usize {
        let at = entries_at + index * ENTRY_LEN;
        if table.array(at)? == id {
            return Ok(at);
        }
    }
    Err(Unsafe::Vhdx(
        "a table lacks the entry that leads to the virtual disk size",
    ))
}
