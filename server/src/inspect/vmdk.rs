//! VMDK: a little-endian sparse header, a text descriptor in the second sector, and for a stream
//! whose directory follows its data a footer (VMware, "Virtual Disk Format 5.0").
//!
//! A reader that trusts the descriptor opens other files: the extents it lists and the parent it
//! hints at. Accepted is only the image that is complete in one file and says so.

use super::capture::{Capture, Tail};
use super::fields::Fields;
use super::{Format, Unsafe, size::Size};

pub(super) const MAGIC: &[u8] = b"KDMV";

const SECTOR_LEN: usize = 512;
/// Where QEMU reads the descriptor, whatever the header says.
const DESCRIPTOR_SECTOR: u64 = 1;
/// QEMU reads no more than this of a descriptor.
const DESCRIPTOR_LEN_MAX: usize = (1 << 20) - 1;
/// A directory sector that means: see the footer.
const DIRECTORY_AT_END: u64 = u64::MAX;

/// A footer marker, the footer, and the end-of-stream marker.
const TAIL_LEN: usize = 3 * SECTOR_LEN;
const FOOTER_MARKER: u32 = 3;

/// Disks of one file that carries all of their data.
const CREATE_TYPES: [&str; 2] = ["monolithicSparse", "streamOptimized"];
/// The access modes that open an extent's line.
const EXTENT_ACCESS: [&str; 3] = ["RW", "RDONLY", "NOACCESS"];

/// Whether the head is a descriptor without a sparse header: plain text that gives a `createType`.
pub(super) fn is_bare_descriptor(head: &[u8]) -> bool {
    let is_text = |byte: &u8| matches!(byte, 9..=13 | 28..=31 | b' '..=b'~');
    let sector = &head[..head.len().min(SECTOR_LEN)];
    sector.iter().all(is_text) && contains_ignoring_case(until_nul(head), b"createType=\"")
}

/// The header's fields that a footer repeats.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    magic: [u8; 4],
    version: u32,
    capacity_sectors: u64,
    descriptor_sector: u64,
    descriptor_sectors: u64,
}

impl Layout {
    fn read(header: Fields<'_>) -> Result<Self, Unsafe> {
        Ok(Self {
            magic: header.array(0)?,
            version: header.le32(4)?,
            capacity_sectors: header.le64(12)?,
            descriptor_sector: header.le64(28)?,
            descriptor_sectors: header.le64(36)?,
        })
    }
}

fn directory_sector(header: Fields<'_>) -> Result<u64, Unsafe> {
    header.le64(56)
}

/// A sparse image, followed from its first byte to its last.
#[derive(Debug)]
pub(super) struct Sparse {
    layout: Layout,
    size: Size,
    descriptor: Descriptor,
    /// Kept only when the header announces a footer.
    tail: Option<Tail<TAIL_LEN>>,
}

#[derive(Debug)]
enum Descriptor {
    Passing(Capture),
    Checked(Result<(), Unsafe>),
}

impl Sparse {
    /// Starts from the stream's `head`, unless it is a bare descriptor.
    pub(super) fn new(head: &[u8]) -> Result<Self, Unsafe> {
        if !head.starts_with(MAGIC) {
            return Err(Unsafe::DataFile);
        }
        let header = Fields::first(Format::Vmdk, head, SECTOR_LEN)?;
        let layout = Layout::read(header)?;
        let Layout {
            version,
            capacity_sectors,
            descriptor_sector,
            ..
        } = layout;
        if !(1..=3).contains(&version) {
            return Err(Unsafe::Version {
                format: Format::Vmdk,
                version,
            });
        }
        if descriptor_sector != DESCRIPTOR_SECTOR {
            return Err(Unsafe::Vmdk("the descriptor is not in the second sector"));
        }
        // QEMU takes a header without capacity as a mere envelope and opens the descriptor's files.
        if capacity_sectors == 0 {
            return Err(Unsafe::Vmdk("the header states no capacity"));
        }
        let capacity = capacity_sectors
            .checked_mul(SECTOR_LEN as u64)
            .ok_or(Unsafe::TooLarge)?;
        let descriptor_len = usize::try_from(layout.descriptor_sectors)
            .unwrap_or(usize::MAX)
            .saturating_mul(SECTOR_LEN)
            .min(DESCRIPTOR_LEN_MAX);
        if descriptor_len == 0 {
            return Err(Unsafe::Vmdk("there is no descriptor"));
        }

        let mut sparse = Self {
            layout,
            size: Size::stated(capacity)?,
            descriptor: Descriptor::Passing(Capture::new(SECTOR_LEN as u64, descriptor_len)),
            tail: (directory_sector(header)? == DIRECTORY_AT_END).then(Tail::default),
        };
        sparse.push(head);
        Ok(sparse)
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        if let Descriptor::Passing(capture) = &mut self.descriptor {
            capture.take(piece);
            if capture.is_full() {
                self.descriptor = Descriptor::Checked(check_descriptor(capture.bytes()));
            }
        }
        if let Some(tail) = &mut self.tail {
            tail.push(piece);
        }
    }

    /// What is known to be wrong before the end.
    pub(super) fn so_far(&self) -> Result<(), Unsafe> {
        match &self.descriptor {
            Descriptor::Passing(_) => Ok(()),
            Descriptor::Checked(checked) => checked.clone(),
        }
    }

    pub(super) fn finish(self) -> Result<Size, Unsafe> {
        match self.descriptor {
            Descriptor::Passing(_) => return Err(Unsafe::CutShort(Format::Vmdk)),
            Descriptor::Checked(checked) => checked?,
        }
        if let Some(tail) = self.tail {
            check_tail(tail.bytes(), &self.layout)?;
        }
        Ok(self.size)
    }
}

/// Accepts a descriptor of known lines only, of a single-file type, whose extents name no path and
/// which has no parent.
fn check_descriptor(descriptor: &[u8]) -> Result<(), Unsafe> {
    let text = until_nul(descriptor);
    // QEMU reads 20 sectors whatever the header says: without an end, that is beyond what is seen
    // here.
    if text.len() == descriptor.len() {
        return Err(Unsafe::Vmdk("the descriptor has no end"));
    }
    let text = str::from_utf8(text)
        .ok()
        .filter(|text| text.is_ascii() && !text.is_empty())
        .ok_or(Unsafe::Vmdk("there is no descriptor"))?;
    // QEMU takes the parent from anywhere in the text, comments included.
    if contains_ignoring_case(text.as_bytes(), b"parentFileNameHint") {
        return Err(Unsafe::BackingFile);
    }

    let mut has_type = false;
    let mut has_extent = false;
    for line in text.split('\n').map(str::trim) {
        if line.is_empty() || line.starts_with('#') || is_prefix_ignoring_case("ddb", line) {
            continue;
        }
        let word = line.split_whitespace().next().unwrap_or_default();
        match line.split_once('=') {
            Some((key, value)) if !key.contains(char::is_whitespace) => {
                if key.eq_ignore_ascii_case("createType") {
                    check_create_type(value)?;
                    has_type = true;
                }
            }
            _ if is_one_of(&EXTENT_ACCESS, word) => {
                if line.contains('/') {
                    return Err(Unsafe::Vmdk("an extent names a path"));
                }
                has_extent = true;
            }
            _ => return Err(Unsafe::Vmdk("the descriptor has a line of unknown kind")),
        }
    }
    if !has_type {
        return Err(Unsafe::Vmdk("the descriptor gives no createType"));
    }
    if !has_extent {
        return Err(Unsafe::Vmdk("the descriptor lists no extent"));
    }
    Ok(())
}

fn check_create_type(value: &str) -> Result<(), Unsafe> {
    let quoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.split_once('"'))
        .map(|(quoted, _)| quoted);
    if quoted.is_some_and(|quoted| is_one_of(&CREATE_TYPES, quoted)) {
        Ok(())
    } else {
        Err(Unsafe::Vmdk(
            "the createType is not that of a single sparse file",
        ))
    }
}

/// A footer replaces the header in a reader that can seek, so it has to say the same.
fn check_tail(tail: &[u8], header: &Layout) -> Result<(), Unsafe> {
    let tail = Fields::first(Format::Vmdk, tail, TAIL_LEN)?;
    let footer = tail.array::<SECTOR_LEN>(SECTOR_LEN)?;
    let footer = Fields::first(Format::Vmdk, &footer, SECTOR_LEN)?;
    if Layout::read(footer)? != *header {
        return Err(Unsafe::Vmdk("header and footer differ"));
    }
    if directory_sector(footer)? == DIRECTORY_AT_END {
        return Err(Unsafe::Vmdk("the footer announces another footer"));
    }
    // A marker is a count of sectors, the length of its data (none), its type, and padding.
    let (data_len, kind) = (tail.le32(8)?, tail.le32(12)?);
    if data_len != 0 || kind != FOOTER_MARKER || !is_zero(&tail.array::<496>(16)?) {
        return Err(Unsafe::Vmdk("the footer's marker is invalid"));
    }
    if !is_zero(&tail.array::<SECTOR_LEN>(2 * SECTOR_LEN)?) {
        return Err(Unsafe::Vmdk("the end-of-stream marker is invalid"));
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn is_one_of(words: &[&str], word: &str) -> bool {
    words.iter().any(|known| known.eq_ignore_ascii_case(word))
}

fn is_prefix_ignoring_case(prefix: &str, text: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn contains_ignoring_case(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len())
        .any(|window| window.eq_ignore_ascii_case(wanted))
}
