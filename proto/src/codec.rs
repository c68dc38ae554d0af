//! The primitives of every encoding of this project: little-endian fixed integers, canonical LEB128
//! varints, and a [`Reader`] that refuses instead of panicking.

use thiserror::Error;

/// Longest canonical varint of a `u64`, in bytes.
pub const VARINT_LEN_MAX: usize = 10;

/// Why foreign bytes were refused. `what` names the field.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends inside the named field.
    #[error("truncated in {what}")]
    Truncated {
        /// Field that was being read.
        what: &'static str,
    },
    /// The input goes on after the last field.
    #[error("{len} bytes too many after {what}")]
    Trailing {
        /// Value that had been read completely.
        what: &'static str,
        /// Bytes left over.
        len: usize,
    },
    /// A value is outside what the format allows.
    #[error("{what} is {value}, allowed is at most {max}")]
    TooLarge {
        /// Field that was being read.
        what: &'static str,
        /// Value found.
        value: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// Magic number, version, kind or codec that this program does not know.
    #[error("unknown {what}: {value}")]
    Unknown {
        /// Field that was being read.
        what: &'static str,
        /// Value found.
        value: u64,
    },
    /// The value breaks a rule of the format that is spelled out in the message.
    #[error("{what}: {rule}")]
    Invalid {
        /// Field that was being read.
        what: &'static str,
        /// The broken rule.
        rule: &'static str,
    },
}

/// Reads fields off the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// A little-endian `u32`.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A little-endian `u64`.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A varint of at most `max`. Only the shortest encoding of a number is accepted, so that a
    /// value has exactly one encoding and hashes of encodings are identities.
    pub fn varint(&mut self, max: u64, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for i in 0..VARINT_LEN_MAX {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if i == VARINT_LEN_MAX - 1 && byte > 1 {
                return Err(DecodeError::Invalid {
                    what,
                    rule: "varint exceeds 64 bits",
                });
            }
            value |= bits << (7 * i);
            if byte & 0x80 == 0 {
                if i > 0 && byte == 0 {
                    return Err(DecodeError::Invalid {
                        what,
                        rule: "varint is not minimal",
                    });
                }
                if value > max {
                    return Err(DecodeError::TooLarge { what, value, max });
                }
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid {
            what,
            rule: "varint exceeds 64 bits",
        })
    }

    /// A length-prefixed byte string of at most `max` bytes.
    pub fn bytes(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.varint(max as u64, what)?;
        self.take(len as usize, what)
    }

    /// A length-prefixed UTF-8 string of at most `max` bytes.
    pub fn string(&mut self, max: usize, what: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(max, what)?).map_err(|_| DecodeError::Invalid {
            what,
            rule: "not UTF-8",
        })
    }

    /// Fails unless everything was read.
    pub fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            len => Err(DecodeError::Trailing { what, len }),
        }
    }
}

/// Appends `value` as a canonical varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-prefixed byte string.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varint_round_trip(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(u64::MAX, "v"), Ok(value));
            prop_assert_eq!(reader.finish("v"), Ok(()));
        }

        #[test]
        fn varint_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint(u64::MAX, "v") {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                prop_assert_eq!(&out[..], &bytes[..bytes.len() - reader.remaining()]);
            }
        }
    }

    #[test]
    fn bounds_are_errors() {
        assert_eq!(
            Reader::new(&[0x80, 0x00]).varint(9, "v"),
            Err(DecodeError::Invalid {
                what: "v",
                rule: "varint is not minimal"
            })
        );
        assert_eq!(
            Reader::new(&[10]).varint(9, "v"),
            Err(DecodeError::TooLarge {
                what: "v",
                value: 10,
                max: 9
            })
        );
        assert_eq!(
            Reader::new(&[5, 1]).bytes(9, "v"),
            Err(DecodeError::Truncated { what: "v" })
        );
        assert_eq!(
            Reader::new(&[1, 0xff]).string(9, "v"),
            Err(DecodeError::Invalid {
                what: "v",
                rule: "not UTF-8"
            })
        );
    }
}
