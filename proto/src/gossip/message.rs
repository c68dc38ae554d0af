//! Messages between neighbours. `docs/GOSSIP.md` is the page.

use super::entry::{IGNORABLE, Key, LogId, TEXT_LEN_MAX, VALUE_LEN_MAX, put_text, skip_fields};
use crate::codec::{DecodeError, Reader, put_bytes, put_varint};
use crate::record::RECORD_LEN_MAX;

/// The protocol version that this program speaks.
pub const VERSION: u8 = 1;
/// Longest message in bytes: one record and what is around it.
pub const MESSAGE_LEN_MAX: usize = RECORD_LEN_MAX + 128 * 1024;
/// Number of buckets of the digest.
pub const BUCKETS: usize = 64;

/// A digest of all logs.
pub type Digest = [u8; 16];

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first in each direction.
    Hello(Hello),
    /// Are we equal?
    Digest(Digest),
    /// We are.
    Same {
        /// Whether the sender has all that the mesh has.
        settled: bool,
    },
    /// We are not. These are the sender's hashes.
    Buckets(Box<[u64; BUCKETS]>),
    /// Every log of the sender in some buckets.
    Versions {
        /// The buckets, as bits.
        buckets: u64,
        /// The logs, ascending.
        logs: Vec<LogState>,
    },
    /// The sender has these versions.
    Have(Vec<(LogId, u64)>),
    /// The sender wants what comes after these versions.
    Want(Vec<(LogId, u64)>),
    /// Entries.
    Delta(Vec<Part>),
    /// Tell me only versions from now on.
    Lazy,
}

/// Who speaks, and what it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version that it speaks.
    pub version_min: u8,
    /// Highest.
    pub version_max: u8,
    /// The site's name.
    pub name: String,
    /// Number of this start of its daemon.
    pub boot: u64,
    /// Whether it has all that the mesh has.
    pub settled: bool,
    /// Of all its logs.
    pub digest: Digest,
}

/// How far a site has seen a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// The log.
    pub log: LogId,
    /// Everything up to this version was seen.
    pub version: u64,
    /// Hash over the entries.
    pub hash: u64,
}

/// A stretch of a log: together with everything up to `from` it is everything up to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The log.
    pub log: LogId,
    /// Where it begins, exclusive.
    pub from: u64,
    /// Where it ends, inclusive.
    pub to: u64,
    /// In the order of versions.
    pub entries: Vec<PartEntry>,
}

/// An entry on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartEntry {
    /// What it is about.
    pub key: Key,
    /// When it was told.
    pub version: u64,
    /// What was told.
    pub value: Vec<u8>,
}

impl LogState {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.log.encode(out);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.hash.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            log: LogId::decode(reader)?,
            version: reader.u64("log version")?,
            hash: reader.u64("log hash")?,
        })
    }
}

impl Part {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.log.encode(out);
        out.extend_from_slice(&self.from.to_le_bytes());
        put_varint(out, self.to - self.from);
        put_varint(out, self.entries.len() as u64);
        let mut last = self.from;
        for entry in &self.entries {
            entry.key.encode(out);
            put_varint(out, entry.version - last);
            put_bytes(out, &entry.value);
            last = entry.version;
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let log = LogId::decode(reader)?;
        let from = reader.u64("part from")?;
        let to = from + reader.varint(u64::MAX - from, "part length")?;
        // An entry is at least three bytes, so the input bounds the list.
        let count = reader.varint(reader.remaining() as u64, "entry count")?;
        let mut entries = Vec::new();
        let mut last = from;
        for _ in 0..count {
            let key = Key::decode(reader)?;
            if key.family() != log.family {
                return Err(DecodeError::Invalid {
                    what: "entry",
                    rule: "its kind belongs to the log's family",
                });
            }
            let step = reader.varint(to - last, "entry version")?;
            if step == 0 {
                return Err(DecodeError::Invalid {
                    what: "entry version",
                    rule: "versions ascend",
                });
            }
            last += step;
            let len_max = match key {
                Key::Image(_) => RECORD_LEN_MAX,
                _ => VALUE_LEN_MAX,
            };
            entries.push(PartEntry {
                key,
                version: last,
                value: reader.bytes(len_max, "entry value")?.to_owned(),
            });
        }
        Ok(Self {
            log,
            from,
            to,
            entries,
        })
    }
}

impl Message {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Hello(hello) => {
                out.extend_from_slice(&[1, hello.version_min, hello.version_max]);
                put_text(&mut out, &hello.name);
                out.extend_from_slice(&hello.boot.to_le_bytes());
                out.push(hello.settled.into());
                out.extend_from_slice(&hello.digest);
            }
            Self::Digest(digest) => {
                out.push(2);
                out.extend_from_slice(digest);
            }
            Self::Same { settled } => out.extend_from_slice(&[3, (*settled).into()]),
            Self::Buckets(hashes) => {
                out.push(4);
                for hash in hashes.iter() {
                    out.extend_from_slice(&hash.to_le_bytes());
                }
            }
            Self::Versions { buckets, logs } => {
                out.push(5);
                out.extend_from_slice(&buckets.to_le_bytes());
                put_varint(&mut out, logs.len() as u64);
                for state in logs {
                    state.encode(&mut out);
                }
            }
            Self::Have(versions) => {
                out.push(6);
                encode_versions(versions, &mut out);
            }
            Self::Want(versions) => {
                out.push(7);
                encode_versions(versions, &mut out);
            }
            Self::Delta(parts) => {
                out.push(8);
                put_varint(&mut out, parts.len() as u64);
                for part in parts {
                    part.encode(&mut out);
                }
            }
            Self::Lazy => out.push(9),
        }
        out
    }

    /// Decodes a foreign message. None if it is of a kind that may be ignored.
    ///
    /// Memory: at most some 40 bytes for each byte of the message.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8("gossip message kind")? {
            1 => {
                let hello = Hello {
                    version_min: reader.u8("lowest version")?,
                    version_max: reader.u8("highest version")?,
                    name: reader.string(TEXT_LEN_MAX, "site name")?.to_owned(),
                    boot: reader.u64("boot")?,
                    settled: flag(&mut reader)?,
                    digest: reader.array("digest")?,
                };
                skip_fields(reader)?;
                return Ok(Some(Self::Hello(hello)));
            }
            2 => Self::Digest(reader.array("digest")?),
            3 => Self::Same {
                settled: flag(&mut reader)?,
            },
            4 => {
                let mut hashes = Box::new([0; BUCKETS]);
                for hash in hashes.iter_mut() {
                    *hash = reader.u64("bucket hash")?;
                }
                Self::Buckets(hashes)
            }
            5 => {
                let buckets = reader.u64("bucket set")?;
                let logs = decode_list(&mut reader, LogState::decode)?;
                if !logs.is_sorted_by(|a, b| a.log < b.log) {
                    return Err(DecodeError::Invalid {
                        what: "logs",
                        rule: "they ascend",
                    });
                }
                Self::Versions { buckets, logs }
            }
            6 => Self::Have(decode_list(&mut reader, decode_version)?),
            7 => Self::Want(decode_list(&mut reader, decode_version)?),
            8 => Self::Delta(decode_list(&mut reader, Part::decode)?),
            9 => Self::Lazy,
            kind if kind >= IGNORABLE => return Ok(None),
            other => {
                return Err(DecodeError::Unknown {
                    what: "gossip message kind",
                    value: other.into(),
                });
            }
        };
        reader.finish("gossip message")?;
        Ok(Some(message))
    }
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8("settled")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid {
            what: "settled",
            rule: "0 or 1",
        }),
    }
}

fn encode_versions(versions: &[(LogId, u64)], out: &mut Vec<u8>) {
    put_varint(out, versions.len() as u64);
    for (log, version) in versions {
        log.encode(out);
        out.extend_from_slice(&version.to_le_bytes());
    }
}

fn decode_version(reader: &mut Reader<'_>) -> Result<(LogId, u64), DecodeError> {
    Ok((LogId::decode(reader)?, reader.u64("log version")?))
}

/// A counted list. Every element takes input, so the input bounds it.
fn decode_list<T>(
    reader: &mut Reader<'_>,
    mut element: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.varint(reader.remaining() as u64, "count")?;
    (0..count).map(|_| element(reader)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::entry::Family;
    use super::*;
    use proptest::prelude::*;

    fn log(site: u64) -> LogId {
        LogId {
            site,
            family: Family::Site,
        }
    }

    fn hello() -> Message {
        Message::Hello(Hello {
            version_min: 1,
            version_max: 2,
            name: "a".into(),
            boot: 5,
            settled: true,
            digest: [7; 16],
        })
    }

    #[test]
    fn messages_round_trip() {
        let part = Part {
            log: log(4),
            from: 10,
            to: u64::MAX,
            entries: vec![
                PartEntry {
                    key: Key::Links,
                    version: 11,
                    value: vec![0],
                },
                PartEntry {
                    key: Key::Unread {
                        kind: 200,
                        id: [1, 2].into(),
                    },
                    version: 500,
                    value: vec![],
                },
            ],
        };
        for message in [
            hello(),
            Message::Digest([1; 16]),
            Message::Same { settled: false },
            Message::Buckets(Box::new([9; BUCKETS])),
            Message::Versions {
                buckets: 6,
                logs: vec![LogState {
                    log: log(1),
                    version: 2,
                    hash: 3,
                }],
            },
            Message::Have(vec![(log(1), 2)]),
            Message::Want(vec![(log(1), 2), (log(3), 0)]),
            Message::Delta(vec![part]),
            Message::Lazy,
        ] {
            assert_eq!(Message::decode(&message.encode()), Ok(Some(message)));
        }
    }

    #[test]
    fn a_message_from_the_future_is_skipped_if_it_may_be() {
        assert_eq!(Message::decode(&[200, 1, 2, 3]), Ok(None));
        assert!(Message::decode(&[100]).is_err());
        let mut bytes = hello().encode();
        bytes.extend_from_slice(&[128, 3, 0, 0, 0]);
        assert_eq!(Message::decode(&bytes), Ok(Some(hello())));
    }

    #[test]
    fn versions_that_do_not_ascend_are_refused() {
        let mut out = vec![8, 1];
        log(1).encode(&mut out);
        out.extend_from_slice(&0u64.to_le_bytes());
        out.extend_from_slice(&[5, 1, 2, 0, 0]);
        assert!(matches!(
            Message::decode(&out),
            Err(DecodeError::Invalid { .. })
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            kind in 0u8..12,
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            bytes.insert(0, kind);
            Message::decode(&bytes).ok();
        }
    }
}
