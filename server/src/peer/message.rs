//! Messages on QUIC streams: a length and that many bytes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use thiserror::Error;
use vitrail_proto::codec::DecodeError;

/// Most bytes allocated before they have arrived.
const ALLOCATE_MAX: usize = 4 * 1024 * 1024;

/// Why talking to a peer ended.
#[derive(Debug, Error)]
pub(super) enum MessageError {
    /// The stream or its connection ended.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// A message is longer than allowed.
    #[error("a message of {len} bytes, allowed is {max}")]
    TooLong {
        /// Length found.
        len: usize,
        /// Length allowed.
        max: usize,
    },
    /// A message does not decode.
    #[error("a message that cannot be understood: {0}")]
    Decode(#[from] DecodeError),
    /// The other end said something that makes no sense here.
    #[error("{0}")]
    Unexpected(&'static str),
}

/// Reads a message of at most `max` bytes; none at the end of the stream.
pub(super) async fn read(
    stream: &mut RecvStream,
    max: usize,
) -> Result<Option<Bytes>, MessageError> {
    match read_len(stream, max).await? {
        Some(len) => read_body(stream, len, |_| {}).await.map(Some),
        None => Ok(None),
    }
}

/// Reads the length of a message of at most `max` bytes; none at the end of the stream.
pub(super) async fn read_len(
    stream: &mut RecvStream,
    max: usize,
) -> Result<Option<usize>, MessageError> {
    let mut head = [0; 4];
    match stream.read_exact(&mut head).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(MessageError::Lost(error.to_string())),
    }
    let len = u32::from_le_bytes(head) as usize;
    if len > max {
        return Err(MessageError::TooLong { len, max });
    }
    Ok(Some(len))
}

/// Reads a message of which [`read_len`] has told the length; tells of bytes as they come.
pub(super) async fn read_body(
    stream: &mut RecvStream,
    len: usize,
    came: impl Fn(usize),
) -> Result<Bytes, MessageError> {
    let mut message = BytesMut::new();
    let mut filled = 0;
    while filled < len {
        if filled == message.len() {
            message.resize(len.min(filled + ALLOCATE_MAX), 0);
        }
        match stream.read(&mut message[filled..]).await {
            Ok(Some(read)) => {
                filled += read;
                came(read);
            }
            Ok(None) => return Err(MessageError::Lost("a message has no end".into())),
            Err(error) => return Err(MessageError::Lost(error.to_string())),
        }
    }
    Ok(message.freeze())
}

/// As [`read_body`], but gives up when the next `least` bytes, or what is left, take longer than `time`.
pub(super) async fn read_steadily(
    stream: &mut RecvStream,
    len: usize,
    least: usize,
    time: Duration,
) -> Result<Bytes, MessageError> {
    let mut message = BytesMut::new();
    while message.len() < len {
        let start = message.len();
        message.resize(len.min(start + least), 0);
        let read = tokio::time::timeout(time, stream.read_exact(&mut message[start..])).await;
        let read = read.map_err(|_| MessageError::Unexpected("it is too slow"))?;
        read.map_err(|error| MessageError::Lost(error.to_string()))?;
    }
    Ok(message.freeze())
}

/// Writes a message.
pub(super) async fn write(stream: &mut SendStream, message: &[u8]) -> Result<(), MessageError> {
    write_parts(stream, message, &Bytes::new()).await
}

/// Writes a message of two parts, the second without copying it.
pub(super) async fn write_parts(
    stream: &mut SendStream,
    head: &[u8],
    body: &Bytes,
) -> Result<(), MessageError> {
    let lost = |error: quinn::WriteError| MessageError::Lost(error.to_string());
    let len = u32::try_from(head.len() + body.len())
        .map_err(|_| MessageError::Unexpected("a message beyond 4 GiB"))?;
    let mut start = BytesMut::with_capacity(4 + head.len());
    start.extend_from_slice(&len.to_le_bytes());
    start.extend_from_slice(head);
    stream.write_chunk(start.freeze()).await.map_err(lost)?;
    if !body.is_empty() {
        stream.write_chunk(body.clone()).await.map_err(lost)?;
    }
    Ok(())
}
