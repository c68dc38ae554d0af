//! The size of the disk inside an image.

use super::Unsafe;

/// How large a guest will see the disk, as far as headers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// As stated, in bytes; 0 is how a header says nothing.
    Stated(u64),
    /// All of the stream but this many bytes in front.
    StreamWithout(u64),
}

impl Size {
    /// A stated size in bytes.
    pub(super) fn stated(bytes: u64) -> Result<Self, Unsafe> {
        if i64::try_from(bytes).is_err() {
            return Err(Unsafe::TooLarge);
        }
        Ok(Self::Stated(bytes))
    }

    /// The size in bytes given the stream's length, `None` where it is unknown or nothing.
    pub(super) fn in_stream(self, stream_len: u64) -> Option<u64> {
        let bytes = match self {
            Self::Stated(bytes) => bytes,
            Self::StreamWithout(front) => stream_len.saturating_sub(front),
        };
        (bytes > 0).then_some(bytes)
    }
}
