//! What format a passing stream is of, how large the disk in it is, and whether it is safe.
//!
//! Images come from strangers, and a reader of disk images can be led by one to files of its host
//! (CVE-2024-32498). So a stream is inspected while it is stored and refused if it could do so, or
//! if it is not what it is declared to be. The answers are those of Glance, series 2026.1.
//!
//! Nothing here does I/O. [`Inspector::push`] sees each byte once and in order; the slicing does
//! not matter. [`Inspector::finish`] yields the [`Facts`], and [`Facts::judge`] holds them against
//! the image's record. [`Inspector::refusal_so_far`] spares the rest of a hopeless upload.
//!
//! # Bounds
//!
//! An inspector holds the first 64 KiB, then only what the format it found needs:
//!
//! | format | further on in the stream | held at most |
//! |---|---|---|
//! | vmdk | descriptor from byte 512, and the last 1.5 KiB if there is a footer | 1 MiB + 1.5 KiB |
//! | vhdx | region table at 192 KiB, metadata table, 8 bytes of size | 64 KiB |
//! | any other | nothing | 0 |
//!
//! A buffer may take as much again while it grows. What is not held is counted only. No length or
//! offset out of the stream sizes an allocation, and none leads back.
//!
//! # Where the answers differ from Glance's
//!
//! Stricter, but not on what a tool writes in earnest:
//!
//! - *Cut short.* Glance takes some truncated headers for `raw` (qcow2, qed, vdi, iso) and refuses
//!   others. Here a magic is enough to match, and every truncated header is unsafe.
//! - *vmdk.* Also refused are a parent (`parentFileNameHint`), a capacity of 0 (QEMU then opens the
//!   descriptor's extents), any `createType` line but the two allowed ones, a descriptor without a
//!   NUL behind it, a footer of another capacity, and every bare descriptor.
//! - *Text* with other than ASCII behind its first sector is `raw`, where Glance gives up and accepts
//!   it as anything.
//! - *vhdx.* Tables without signature, metadata or size are refused, as QEMU does, where Glance
//!   records no size. Offsets that lead back are refused, where Glance's answer depends on how the
//!   stream is sliced.
//! - *Sizes* of 2^63 and more are refused, where Glance has no column for them.
//! - *Without `require_match`*, Glance lets pass what is unsafe but of a wrong format, of several
//!   formats, or cut short.
//!
//! More lenient:
//!
//! - *qcow2 version 2* has no feature bits, where Glance reads an extension's length as such.
//! - *luks* with its payload beyond the end has no virtual size, where Glance's is negative.
//! - *No bytes* at all are accepted as any format.

mod capture;
mod fields;
mod format;
mod iso;
mod luks;
mod mbr;
mod qcow2;
mod safety;
mod size;
#[cfg(test)]
mod tests;
mod vdi;
mod verdict;
mod vhd;
mod vhdx;
mod vmdk;

pub use format::Format;
pub use safety::Unsafe;
pub use verdict::{Declared, Refusal, Rules, Verdict};

use capture::Capture;
use size::Size;

/// Long enough for the mark of every format; the length in which a bare vmdk descriptor has to give
/// its type, and the pieces in which Glance looks for it.
const HEAD_LEN: usize = 64 << 10;

/// Follows one stream.
#[derive(Debug)]
pub struct Inspector {
    len: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Head(Capture),
    Matched(Match),
}

/// What a whole stream has turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The format whose mark was found, `Raw` if none was.
    pub format: Format,
    /// Size in bytes of the disk inside, if the image is read as this format; `None` where the
    /// header does not tell, or the content is unsafe.
    pub virtual_size: Option<u64>,
    /// The stream's length in bytes.
    pub len: u64,
    /// Why the content must not be used, if so.
    pub safety: Result<(), Unsafe>,
}

impl Default for Inspector {
    fn default() -> Self {
        Self::new()
    }
}

impl Inspector {
    /// An inspector at the start of a stream.
    pub fn new() -> Self {
        Self {
            len: 0,
            stage: Stage::Head(Capture::new(0, HEAD_LEN)),
        }
    }

    /// Sees the next bytes of the stream. Past what the format needs, this is an addition.
    pub fn push(&mut self, piece: &[u8]) {
        self.len = self.len.saturating_add(piece.len() as u64);
        match &mut self.stage {
            Stage::Matched(found) => found.push(piece),
            Stage::Head(head) => {
                let rest = head.take(piece);
                if head.is_full() {
                    let mut found = Match::of(head.bytes());
                    found.push(rest);
                    self.stage = Stage::Matched(found);
                }
            }
        }
    }

    /// The refusal that is certain already, however the stream goes on. [`Facts::judge`] refuses
    /// the whole stream too, perhaps for a further reason.
    ///
    /// Format mismatches show after the first 64 KiB.
    pub fn refusal_so_far(&self, declared: Declared<'_>, rules: Rules) -> Option<Refusal> {
        let Stage::Matched(found) = &self.stage else {
            return None;
        };
        let facts = Facts {
            format: found.format,
            virtual_size: None,
            len: self.len,
            safety: found.content.so_far(),
        };
        facts.judge(declared, rules).err()
    }

    /// The facts, given that the stream ends here.
    pub fn finish(self) -> Facts {
        let found = match self.stage {
            Stage::Head(head) => Match::of(head.bytes()),
            Stage::Matched(found) => found,
        };
        let size = found.content.finish();
        Facts {
            format: found.format,
            virtual_size: size.as_ref().ok().and_then(|size| size.in_stream(self.len)),
            len: self.len,
            safety: size.map(drop),
        }
    }
}

/// The format that a stream's head gives away.
#[derive(Debug)]
struct Match {
    format: Format,
    content: Content,
}

/// What is known of the content, or what is left to read for that.
#[derive(Debug)]
enum Content {
    Read(Result<Size, Unsafe>),
    Vmdk(vmdk::Sparse),
    Vhdx(vhdx::Tables),
}

impl Match {
    fn of(head: &[u8]) -> Self {
        let formats = Format::marks_in(head);
        match *formats.as_slice() {
            [] => Self::as_format(Format::Raw, head),
            // An ISO that also boots from a disk has a partition table in its unused first sectors.
            [format] | [format @ Format::Iso, Format::Gpt] => Self::as_format(format, head),
            [format, ..] => Self {
                format,
                content: Content::Read(Err(Unsafe::SeveralFormats(formats))),
            },
        }
    }

    fn as_format(format: Format, head: &[u8]) -> Self {
        let read = match format {
            Format::Raw => Ok(Size::StreamWithout(0)),
            Format::Qcow2 => qcow2::read(head),
            Format::Qed => Err(Unsafe::Banned(Format::Qed)),
            Format::Vhd => vhd::read(head),
            Format::Vdi => vdi::read(head),
            Format::Iso => iso::read(head),
            Format::Gpt => mbr::read(head),
            Format::Luks => luks::read(head),
            Format::Vhdx => {
                let content = Content::Vhdx(vhdx::Tables::new(head));
                return Self { format, content };
            }
            Format::Vmdk => match vmdk::Sparse::new(head) {
                Ok(sparse) => {
                    return Self {
                        format,
                        content: Content::Vmdk(sparse),
                    };
                }
                Err(bad) => Err(bad),
            },
        };
        Self {
            format,
            content: Content::Read(read),
        }
    }

    fn push(&mut self, piece: &[u8]) {
        match &mut self.content {
            Content::Read(_) => {}
            Content::Vmdk(sparse) => sparse.push(piece),
            Content::Vhdx(tables) => tables.push(piece),
        }
    }
}

impl Content {
    /// What is known to be wrong before the end of the stream.
    fn so_far(&self) -> Result<(), Unsafe> {
        match self {
            Self::Read(read) => read.clone().map(drop),
            Self::Vmdk(sparse) => sparse.so_far(),
            Self::Vhdx(tables) => tables.so_far(),
        }
    }

    fn finish(self) -> Result<Size, Unsafe> {
        match self {
            Self::Read(read) => read,
            Self::Vmdk(sparse) => sparse.finish(),
            Self::Vhdx(tables) => tables.finish(),
        }
    }
}
