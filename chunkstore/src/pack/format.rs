//! Byte layout of headers, entries, footers and trailers.

use vitrail_proto::codec::{DecodeError, Reader, put_varint};
use vitrail_proto::frame::{FRAME_LEN_MAX, FrameHead};

use super::PackId;

const HEADER_MAGIC: [u8; 8] = *b"VITRPACK";
const ENTRY_MAGIC: [u8; 4] = *b"VFRM";
const FOOTER_MAGIC: [u8; 4] = *b"VFTR";
const TRAILER_MAGIC: [u8; 8] = *b"VITRSEAL";
const VERSION: u32 = 1;

pub(crate) const HEADER_LEN: u64 = 32;
pub(super) const CHECKSUM_LEN: usize = 8;
/// Magic, length and checksum before a frame or a footer's body.
pub(super) const ENTRY_HEAD_LEN: u64 = 16;
/// Longest entry in bytes.
pub(crate) const ENTRY_LEN_MAX: u64 = ENTRY_HEAD_LEN + FRAME_LEN_MAX;
pub(super) const TRAILER_LEN: u64 = 16;
/// Longest footer in bytes. Writers seal a pack at 65,536 chunks, which makes 2.4 MB.
pub(super) const FOOTER_LEN_MAX: u64 = 64 * 1024 * 1024;

pub(super) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut out = [0; CHECKSUM_LEN];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_LEN]);
    out
}

pub(super) fn encode_header(id: PackId) -> Vec<u8> {
    let mut out = HEADER_MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&id.0.to_le_bytes());
    let sum = checksum(&out);
    out.extend_from_slice(&sum);
    out
}

pub(super) fn decode_header(bytes: &[u8]) -> Result<PackId, DecodeError> {
    let mut reader = Reader::new(bytes);
    let invalid = |rule| DecodeError::Invalid {
        what: "pack header",
        rule,
    };
    if reader.array("pack header")? != HEADER_MAGIC {
        return Err(invalid("the magic is missing"));
    }
    let version = reader.u32("pack version")?;
    reader.u32("pack header")?;
    let id = PackId(reader.u64("pack id")?);
    // First, lest flipped bits pass for a later version. Every version has this header.
    if reader.array("pack header checksum")? != checksum(&bytes[..24]) {
        return Err(invalid("the checksum is wrong"));
    }
    if version != VERSION {
        return Err(DecodeError::Unknown {
            what: "pack version",
            value: version.into(),
        });
    }
    Ok(id)
}

/// What precedes a frame or a footer's body.
pub(super) struct EntryHead {
    pub(super) footer: bool,
    /// Bytes of the frame or body that follow.
    pub(super) len: u32,
    pub(super) checksum: [u8; CHECKSUM_LEN],
}

impl EntryHead {
    fn encode(magic: [u8; 4], content: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&magic);
        out.extend_from_slice(&(content.len() as u32).to_le_bytes());
        out.extend_from_slice(&checksum(content));
        out.extend_from_slice(content);
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (footer, max) = match reader.array("entry magic")? {
            ENTRY_MAGIC => (false, FRAME_LEN_MAX),
            FOOTER_MAGIC => (true, FOOTER_LEN_MAX),
            _ => {
                return Err(DecodeError::Invalid {
                    what: "entry",
                    rule: "the magic is missing",
                });
            }
        };
        let len = reader.u32("entry length")?;
        if u64::from(len) > max {
            return Err(DecodeError::TooLarge {
                what: "entry length",
                value: len.into(),
                max,
            });
        }
        Ok(Self {
            footer,
            len,
            checksum: reader.array("entry checksum")?,
        })
    }
}

pub(super) fn encode_entry(frame: &[u8], out: &mut Vec<u8>) {
    EntryHead::encode(ENTRY_MAGIC, frame, out);
}

/// A footer and the trailer that finds it, to be written at `at`.
pub(super) fn encode_footer(entries: &[(u64, FrameHead)], at: u64) -> Vec<u8> {
    let mut body = Vec::new();
    put_varint(&mut body, entries.len() as u64);
    let mut end = HEADER_LEN;
    for (offset, head) in entries {
        put_varint(&mut body, offset - end);
        let start = body.len();
        head.encode(&mut body);
        let head_len = (body.len() - start) as u64;
        end = offset + ENTRY_HEAD_LEN + head_len + u64::from(head.body_len);
    }
    let mut out = Vec::new();
    EntryHead::encode(FOOTER_MAGIC, &body, &mut out);
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&TRAILER_MAGIC);
    out
}

/// A sealed pack of any frames and any footer's body.
pub(crate) fn assemble(id: PackId, frames: &[&[u8]], footer_body: &[u8]) -> Vec<u8> {
    let mut out = encode_header(id);
    for frame in frames {
        encode_entry(frame, &mut out);
    }
    let footer = out.len() as u64;
    EntryHead::encode(FOOTER_MAGIC, footer_body, &mut out);
    out.extend_from_slice(&footer.to_le_bytes());
    out.extend_from_slice(&TRAILER_MAGIC);
    out
}

/// The entries that a footer's body lists: offset, length with the entry's head, frame head.
pub(super) fn decode_footer(
    body: &[u8],
    pack_len: u64,
) -> Result<Vec<(u64, u32, FrameHead)>, DecodeError> {
    let mut reader = Reader::new(body);
    let count = reader.varint(body.len() as u64, "footer entry count")?;
    let mut entries = Vec::new();
    let mut end = HEADER_LEN;
    for _ in 0..count {
        let offset = end + reader.varint(pack_len, "footer entry offset")?;
        let before = reader.remaining();
        let head = FrameHead::decode(&mut reader)?;
        let head_len = (before - reader.remaining()) as u64;
        let len = ENTRY_HEAD_LEN + head_len + u64::from(head.body_len);
        end = offset + len;
        if end > pack_len {
            return Err(DecodeError::TooLarge {
                what: "footer entry end",
                value: end,
                max: pack_len,
            });
        }
        entries.push((offset, len as u32, head));
    }
    reader.finish("footer")?;
    Ok(entries)
}

/// Offset of the footer, if these are the last bytes of a sealed pack.
pub(super) fn decode_trailer(bytes: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(bytes);
    let offset = reader.u64("trailer").ok()?;
    (reader.array("trailer").ok()? == TRAILER_MAGIC).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vitrail_proto::frame::{ChunkEntry, Codec};
    use vitrail_proto::id::ChunkId;

    #[test]
    fn footer_round_trips() {
        let head = FrameHead {
            codec: Codec::Zstd,
            chunks: vec![ChunkEntry {
                id: ChunkId::of(b"a"),
                len: 100,
            }],
            references: vec![],
            body_len: 50,
        };
        let frame_len = 1 + 1 + 33 + 1 + 1 + 50;
        let entry_len = ENTRY_HEAD_LEN + frame_len;
        let second = HEADER_LEN + entry_len + 7; // a gap, as an aborted write leaves
        let entries = vec![(HEADER_LEN, head.clone()), (second, head.clone())];
        let end = second + entry_len;
        let bytes = encode_footer(&entries, end);
        let (body, trailer) = bytes.split_at(bytes.len() - TRAILER_LEN as usize);
        assert_eq!(decode_trailer(trailer), Some(end));
        let head_out = EntryHead::decode(body).unwrap();
        assert!(head_out.footer);
        let body = &body[ENTRY_HEAD_LEN as usize..];
        assert_eq!(head_out.checksum, checksum(body));
        let expected = vec![
            (HEADER_LEN, entry_len as u32, head.clone()),
            (second, entry_len as u32, head),
        ];
        assert_eq!(decode_footer(body, end), Ok(expected));
        assert!(decode_footer(body, end - 1).is_err());
    }

    proptest! {
        #[test]
        fn accepted_bytes_keep_their_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(entries) = decode_footer(&bytes, 1000) {
                for (offset, len, _) in entries {
                    prop_assert!(offset >= HEADER_LEN && offset + u64::from(len) <= 1000);
                }
            }
            if let Ok(head) = EntryHead::decode(&bytes) {
                prop_assert!(u64::from(head.len) <= FRAME_LEN_MAX.max(FOOTER_LEN_MAX));
            }
            prop_assert!(decode_header(&bytes).is_err(), "nobody guesses a checksum");
        }

        #[test]
        fn a_header_with_a_flipped_bit_is_no_header(id: u64, bit in 0..8 * HEADER_LEN) {
            let mut header = encode_header(PackId(id));
            prop_assert_eq!(decode_header(&header), Ok(PackId(id)));
            header[(bit / 8) as usize] ^= 1 << (bit % 8);
            // In particular not one of another version, which would be left alone.
            let refused = matches!(decode_header(&header), Err(DecodeError::Invalid { .. }));
            prop_assert!(refused);
        }
    }
}
