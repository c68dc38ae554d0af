//! A partitioned disk, known by the boot signature of its first sector: a master boot record,
//! which protects a GPT behind it (UEFI 2.10, section 5.2) or stands alone.

use super::fields::Fields;
use super::{Format, Unsafe, size::Size};

const SECTOR_LEN: usize = 512;
const SIGNATURE_AT: usize = 510;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// A FAT volume's first sector bears the same signature. It has two copies of its table and is on
/// a fixed disk (0xf8).
const FAT_COPIES_AT: usize = 16;
const FAT_MEDIA_AT: usize = 21;

const ENTRIES_AT: usize = 446;
const ENTRY_LEN: usize = 16;
const ENTRY_COUNT: usize = 4;
const EMPTY: u8 = 0;
/// The partition type that covers a GPT disk.
const PROTECTIVE: u8 = 0xee;

pub(super) fn marks(head: &[u8]) -> bool {
    let Some(sector) = head.first_chunk::<SECTOR_LEN>() else {
        return false;
    };
    let is_fat = sector[FAT_COPIES_AT] == 2 && sector[FAT_MEDIA_AT] == 0xf8;
    sector[SIGNATURE_AT..] == SIGNATURE && !is_fat
}

/// The whole stream, if the four entries are ones that a partitioning tool writes.
pub(super) fn read(head: &[u8]) -> Result<Size, Unsafe> {
    let sector = Fields::first(Format::Gpt, head, SECTOR_LEN)?;
    let mut used = 0;
    let mut first_is_protective = false;
    let mut has_protective = false;
    for index in 0..ENTRY_COUNT {
        let at = ENTRIES_AT + index * ENTRY_LEN;
        let [boot, start_chs @ .., kind] = sector.array::<5>(at)?;
        let start_sector = sector.le32(at + 8)?;
        if boot & 0x7f != 0 {
            return Err(Unsafe::Mbr("a partition has an invalid boot flag"));
        }
        if kind != EMPTY {
            used += 1;
        }
        if kind == PROTECTIVE {
            has_protective = true;
            first_is_protective |= index == 0;
            if start_chs != [0, 2, 0] || start_sector != 1 {
                return Err(Unsafe::Mbr("the GPT does not start at sector 1"));
            }
        }
    }
    if used == 0 {
        return Err(Unsafe::Mbr("no partition is defined"));
    }
    if has_protective && !(first_is_protective && used == 1) {
        return Err(Unsafe::Mbr("there are partitions beside the GPT"));
    }
    Ok(Size::StreamWithout(0))
}
