//! Messages between sites about chunks and records. `docs/WIRE.md` is the page.

mod path;

use bytes::Bytes;
use uuid::Uuid;

use crate::codec::{DecodeError, Reader, put_bytes, put_varint};
use crate::congestion::Class;
use crate::frame::FRAME_LEN_MAX;
use crate::id::ManifestId;
use crate::runs::Runs;
pub use path::PathFigures;

/// The protocol's name in TLS.
pub const ALPN: &[u8] = b"vitrail/1";
/// The DNS name for which every site's certificate is valid.
pub const PEER_DNS_NAME: &str = "vitrail-peer";
/// Longest message in bytes, but for manifests.
pub const MESSAGE_LEN_MAX: usize = 2 * 1024 * 1024;
/// Longest text in a message in bytes.
const TEXT_LEN_MAX: usize = 4096;

const _: () = assert!(FRAME_LEN_MAX + 32 < MESSAGE_LEN_MAX as u64);

/// What a stream is for: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Gossip.
    Gossip,
    /// Manifests and chunks.
    Fetch,
    /// One question and its answer.
    Ask,
}

impl StreamKind {
    /// The byte.
    pub fn number(self) -> u8 {
        match self {
            Self::Gossip => 1,
            Self::Fetch => 2,
            Self::Ask => 3,
        }
    }

    /// The kind of a byte.
    pub fn from_number(number: u8) -> Result<Self, DecodeError> {
        match number {
            1 => Ok(Self::Gossip),
            2 => Ok(Self::Fetch),
            3 => Ok(Self::Ask),
            other => Err(DecodeError::Unknown {
                what: "stream kind",
                value: other.into(),
            }),
        }
    }
}

/// From a puller to a holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchRequest {
    /// Send me a manifest.
    WantManifest(ManifestId),
    /// What follows is about this manifest.
    Open(ManifestId),
    /// What do you have of the opened manifest? Tell also when you have more.
    WantHave,
    /// Send me these chunks of the opened manifest.
    Get {
        /// Number by which the answer names the request.
        request: u32,
        /// Chunk indexes.
        chunks: Runs,
    },
    /// Do not begin a request.
    Cancel {
        /// Its number.
        request: u32,
    },
    /// What I ask for on this stream is for work of this class from now on.
    Class(Class),
    /// What I ask for on this stream goes before what I ask for on others.
    First,
}

/// From a holder to a puller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchReply {
    /// A manifest's encoding; empty if there is none.
    Manifest(Bytes),
    /// Chunk indexes of the opened manifest that the holder has.
    Have(Runs),
    /// Some of the chunks asked for.
    Frame {
        /// The request.
        request: u32,
        /// An encoded frame, not yet looked into.
        frame: Bytes,
    },
    /// The end of a request.
    Done {
        /// The request.
        request: u32,
        /// What was not there.
        missing: Runs,
    },
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// What do you know of this image?
    Record(Uuid),
    /// Hold this image, and tell how it goes.
    Hold(Uuid),
    /// Do you hold this manifest whole, and mean to keep it?
    Vouch(ManifestId),
    /// Give up your copy of this image, unless it is the last.
    Evict(Uuid),
    /// What do you know of the path from you to me?
    Path,
}

/// An answer, or one of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An encoded record; empty if unknown.
    Record(Bytes),
    /// How far holding is.
    Progress(Progress),
    /// Whether the manifest is held whole and will be kept.
    Vouched(bool),
    /// How the eviction ended.
    Evicted(Evicted),
    /// What the answering site's end of the connection knows.
    Path(PathFigures),
}

/// How an eviction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evicted {
    /// The site keeps it no more.
    Done,
    /// It had nothing to give up.
    NotHeld,
    /// No other site vouches for a copy of its own.
    LastCopy,
    /// It failed, for this reason.
    Failed(String),
}

/// How far a site is with holding an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Whether it goes on.
    pub state: ProgressState,
    /// Bytes of the image's data that are there.
    pub done_bytes: u64,
    /// Bytes of the image's data.
    pub total_bytes: u64,
    /// What went wrong, if something did.
    pub text: String,
}

/// Whether something goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressState {
    /// It does.
    Running,
    /// It ended well: the bytes are durable.
    Held,
    /// It failed.
    Failed,
}

impl FetchRequest {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::WantManifest(id) => {
                out.push(1);
                out.extend_from_slice(id.as_bytes());
            }
            Self::Open(id) => {
                out.push(2);
                out.extend_from_slice(id.as_bytes());
            }
            Self::Get { request, chunks } => {
                out.push(3);
                put_varint(&mut out, (*request).into());
                chunks.encode(&mut out);
            }
            Self::Cancel { request } => {
                out.push(4);
                put_varint(&mut out, (*request).into());
            }
            Self::Class(class) => out.extend([5, u8::from(*class == Class::Background)]),
            Self::WantHave => out.push(6),
            Self::First => out.push(7),
        }
        out
    }

    /// Decodes a foreign message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8("fetch request kind")? {
            1 => Self::WantManifest(ManifestId::from_bytes(reader.array("manifest id")?)),
            2 => Self::Open(ManifestId::from_bytes(reader.array("manifest id")?)),
            3 => Self::Get {
                request: request_number(&mut reader)?,
                chunks: Runs::decode(&mut reader)?,
            },
            4 => Self::Cancel {
                request: request_number(&mut reader)?,
            },
            5 => Self::Class(class(reader.u8("class")?)?),
            6 => Self::WantHave,
            7 => Self::First,
            other => {
                return Err(DecodeError::Unknown {
                    what: "fetch request kind",
                    value: other.into(),
                });
            }
        };
        reader.finish("fetch request")?;
        Ok(message)
    }
}

fn class(number: u8) -> Result<Class, DecodeError> {
    match number {
        0 => Ok(Class::Interactive),
        1 => Ok(Class::Background),
        other => Err(DecodeError::Unknown {
            what: "class",
            value: other.into(),
        }),
    }
}

impl FetchReply {
    /// The message, but for a manifest's or frame's own bytes, which follow it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Manifest(bytes) => {
                out.push(1);
                out.extend_from_slice(bytes);
            }
            Self::Have(runs) => {
                out.push(2);
                runs.encode(&mut out);
            }
            Self::Frame { request, frame } => {
                out.push(3);
                put_varint(&mut out, (*request).into());
                out.extend_from_slice(frame);
            }
            Self::Done { request, missing } => {
                out.push(4);
                put_varint(&mut out, (*request).into());
                missing.encode(&mut out);
            }
        }
        out
    }

    /// Decodes a foreign message; payloads share its memory.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8("fetch reply kind")?;
        let rest = |reader: &Reader<'_>| bytes.slice(bytes.len() - reader.remaining()..);
        let message = match kind {
            1 => return Ok(Self::Manifest(rest(&reader))),
            2 => Self::Have(Runs::decode(&mut reader)?),
            3 => {
                let request = request_number(&mut reader)?;
                return Ok(Self::Frame {
                    request,
                    frame: rest(&reader),
                });
            }
            4 => Self::Done {
                request: request_number(&mut reader)?,
                missing: Runs::decode(&mut reader)?,
            },
            other => {
                return Err(DecodeError::Unknown {
                    what: "fetch reply kind",
                    value: other.into(),
                });
            }
        };
        reader.finish("fetch reply")?;
        Ok(message)
    }
}

impl Question {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, id): (u8, &[u8]) = match self {
            Self::Record(id) => (1, id.as_bytes()),
            Self::Hold(id) => (2, id.as_bytes()),
            Self::Vouch(id) => (3, id.as_bytes()),
            Self::Evict(id) => (4, id.as_bytes()),
            Self::Path => (5, &[]),
        };
        [&[kind], id].concat()
    }

    /// Decodes a foreign message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8("question kind")?;
        let mut image = || reader.array("image id").map(Uuid::from_bytes);
        let question = match kind {
            1 => Self::Record(image()?),
            2 => Self::Hold(image()?),
            3 => Self::Vouch(ManifestId::from_bytes(reader.array("manifest id")?)),
            4 => Self::Evict(image()?),
            5 => Self::Path,
            other => {
                return Err(DecodeError::Unknown {
                    what: "question kind",
                    value: other.into(),
                });
            }
        };
        reader.finish("question")?;
        Ok(question)
    }
}

impl Answer {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Record(bytes) => {
                out.push(1);
                out.extend_from_slice(bytes);
            }
            Self::Progress(progress) => {
                out.push(2);
                out.push(match progress.state {
                    ProgressState::Running => 0,
                    ProgressState::Held => 1,
                    ProgressState::Failed => 2,
                });
                put_varint(&mut out, progress.done_bytes);
                put_varint(&mut out, progress.total_bytes);
                put_text(&mut out, &progress.text);
            }
            Self::Vouched(yes) => out.extend([3, u8::from(*yes)]),
            Self::Evicted(evicted) => {
                let (outcome, text) = match evicted {
                    Evicted::Done => (0, ""),
                    Evicted::NotHeld => (1, ""),
                    Evicted::LastCopy => (2, ""),
                    Evicted::Failed(why) => (3, why.as_str()),
                };
                out.extend([4, outcome]);
                put_text(&mut out, text);
            }
            Self::Path(figures) => {
                out.push(5);
                figures.encode(&mut out);
            }
        }
        out
    }

    /// Decodes a foreign message.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8("answer kind")? {
            1 => Ok(Self::Record(bytes.slice(1..))),
            2 => {
                let state = match reader.u8("progress state")? {
                    0 => ProgressState::Running,
                    1 => ProgressState::Held,
                    2 => ProgressState::Failed,
                    other => {
                        return Err(DecodeError::Unknown {
                            what: "progress state",
                            value: other.into(),
                        });
                    }
                };
                let progress = Progress {
                    state,
                    done_bytes: reader.varint(u64::MAX, "bytes done")?,
                    total_bytes: reader.varint(u64::MAX, "bytes in all")?,
                    text: reader.string(TEXT_LEN_MAX, "progress text")?.to_owned(),
                };
                reader.finish("progress")?;
                Ok(Self::Progress(progress))
            }
            3 => {
                let yes = match reader.u8("vouched")? {
                    0 => false,
                    1 => true,
                    _ => {
                        return Err(DecodeError::Invalid {
                            what: "vouched",
                            rule: "0 or 1",
                        });
                    }
                };
                reader.finish("vouched")?;
                Ok(Self::Vouched(yes))
            }
            4 => {
                let outcome = reader.u8("evicted")?;
                let text = reader.string(TEXT_LEN_MAX, "evicted text")?;
                let evicted = match outcome {
                    0 => Evicted::Done,
                    1 => Evicted::NotHeld,
                    2 => Evicted::LastCopy,
                    3 => Evicted::Failed(text.to_owned()),
                    other => {
                        return Err(DecodeError::Unknown {
                            what: "evicted",
                            value: other.into(),
                        });
                    }
                };
                reader.finish("evicted")?;
                Ok(Self::Evicted(evicted))
            }
            5 => {
                let figures = PathFigures::decode(&mut reader)?;
                reader.finish("path")?;
                Ok(Self::Path(figures))
            }
            other => Err(DecodeError::Unknown {
                what: "answer kind",
                value: other.into(),
            }),
        }
    }
}

/// A text, cut to the length that a message may have.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(TEXT_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_bytes(out, &text.as_bytes()[..end]);
}

fn request_number(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    Ok(reader.varint(u32::MAX.into(), "request number")? as u32)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::congestion::State;
    use proptest::prelude::*;

    #[test]
    fn messages_round_trip() {
        let id = ManifestId::of(b"m");
        let runs = Runs::of([1, 2, 3, 9]);
        for message in [
            FetchRequest::WantManifest(id),
            FetchRequest::Open(id),
            FetchRequest::WantHave,
            FetchRequest::First,
            FetchRequest::Get {
                request: 300,
                chunks: runs.clone(),
            },
            FetchRequest::Cancel { request: u32::MAX },
            FetchRequest::Class(Class::Interactive),
            FetchRequest::Class(Class::Background),
        ] {
            assert_eq!(FetchRequest::decode(&message.encode()), Ok(message));
        }
        for message in [
            FetchReply::Manifest(Bytes::from_static(b"bytes")),
            FetchReply::Have(runs.clone()),
            FetchReply::Frame {
                request: 7,
                frame: Bytes::from_static(b"frame"),
            },
            FetchReply::Done {
                request: 7,
                missing: runs,
            },
        ] {
            assert_eq!(FetchReply::decode(&message.encode().into()), Ok(message));
        }
        let progress = Progress {
            state: ProgressState::Failed,
            done_bytes: 1,
            total_bytes: 2,
            text: "why".into(),
        };
        let figures = PathFigures {
            rate: Some(12_000_000),
            rtt: Some(Duration::from_millis(102)),
            rtt_min: Some(Duration::from_millis(100)),
            packets_sent: 1000,
            packets_lost: 1,
            bytes_lost: 1452,
            state: State::Cruise,
        };
        for message in [
            Answer::Record(Bytes::new()),
            Answer::Progress(progress),
            Answer::Vouched(true),
            Answer::Vouched(false),
            Answer::Evicted(Evicted::Done),
            Answer::Evicted(Evicted::NotHeld),
            Answer::Evicted(Evicted::LastCopy),
            Answer::Evicted(Evicted::Failed("why".into())),
            Answer::Path(figures),
        ] {
            assert_eq!(Answer::decode(&message.encode().into()), Ok(message));
        }
        for message in [
            Question::Record(Uuid::nil()),
            Question::Hold(Uuid::nil()),
            Question::Vouch(id),
            Question::Evict(Uuid::nil()),
            Question::Path,
        ] {
            assert_eq!(Question::decode(&message.encode()), Ok(message));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _any = FetchRequest::decode(&bytes);
            let _any = Question::decode(&bytes);
            let bytes = Bytes::from(bytes);
            let _any = FetchReply::decode(&bytes);
            let _any = Answer::decode(&bytes);
        }
    }
}
