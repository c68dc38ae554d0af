//! Names of content: BLAKE3-256 of exactly the bytes that are named.

use std::fmt;
use std::str::FromStr;

use crate::codec::DecodeError;

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Length of the binary form in bytes.
            pub const LEN: usize = 32;

            /// The id of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// An id that somebody claims. It names content and proves nothing about any.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The binary form.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight bytes as a number: a hash for tables and sketches, not an identity.
            pub fn prefix(&self) -> u64 {
                let mut head = [0; 8];
                head.copy_from_slice(&self.0[..8]);
                u64::from_be_bytes(head)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = DecodeError;

            /// Parses 64 lower- or upper-case hexadecimal digits.
            fn from_str(text: &str) -> Result<Self, DecodeError> {
                let error = DecodeError::Invalid { what: stringify!($name), rule: "not 64 hexadecimal digits" };
                let digits = text.as_bytes();
                if digits.len() != 64 {
                    return Err(error);
                }
                let mut out = [0; 32];
                for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
                    let high = (pair[0] as char).to_digit(16).ok_or(error.clone())?;
                    let low = (pair[1] as char).to_digit(16).ok_or(error.clone())?;
                    *byte = (high << 4 | low) as u8;
                }
                Ok(Self(out))
            }
        }
    };
}

hash_id!(
    /// Name of a chunk: BLAKE3-256 of its uncompressed bytes.
    ChunkId
);
hash_id!(
    /// Name of a manifest: BLAKE3-256 of its canonical encoding.
    ManifestId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let id = ChunkId::of(b"glass");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        assert!("abc".parse::<ChunkId>().is_err());
        assert!("zz".repeat(32).parse::<ChunkId>().is_err());
        assert!("é".repeat(32).parse::<ChunkId>().is_err());
    }
}
