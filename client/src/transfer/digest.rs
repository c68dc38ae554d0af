//! Hashing of a stream beside its transfer.
//!
//! MD5 and SHA-512 are each slower than the network they accompany, so every algorithm has a
//! thread of its own and the stream goes at the pace of the slowest.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use sha2::digest::DynDigest;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

/// Pieces that may wait for one thread. The HTTP library's pieces are at most some 400 KiB, so
/// this bounds the memory at a few MiB; pieces are shared between the threads, not copied.
const QUEUE_LEN: usize = 16;

/// A hash that an image record may state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// `checksum`.
    Md5,
    /// `os_hash_value` of some sites.
    Sha256,
    /// `os_hash_value` by default.
    Sha512,
}

impl Algorithm {
    /// The algorithm that `os_hash_algo` names; `None` if it is not known here.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "md5" => Some(Self::Md5),
            "sha256" => Some(Self::Sha256),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    fn hasher(self) -> Box<dyn DynDigest + Send> {
        match self {
            Self::Md5 => Box::new(md5::Md5::default()),
            Self::Sha256 => Box::new(sha2::Sha256::default()),
            Self::Sha512 => Box::new(sha2::Sha512::default()),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512 => "SHA-512",
        })
    }
}

/// Hashes in hex.
pub(super) type Digests = BTreeMap<Algorithm, String>;

/// Where the stream goes in. Dropping it ends the stream.
#[derive(Debug)]
pub(super) struct Feed(Vec<mpsc::Sender<Bytes>>);

/// Where the hashes come out.
#[derive(Debug)]
pub(super) struct Hashing(Vec<(Algorithm, JoinHandle<Box<[u8]>>)>);

/// Starts one thread for each of `algorithms`. Must be called in a tokio runtime.
pub(super) fn start(algorithms: impl IntoIterator<Item = Algorithm>) -> (Feed, Hashing) {
    let (senders, threads) = algorithms
        .into_iter()
        .map(|algorithm| {
            let (sender, mut pieces) = mpsc::channel::<Bytes>(QUEUE_LEN);
            let thread = spawn_blocking(move || {
                let mut hasher = algorithm.hasher();
                while let Some(piece) = pieces.blocking_recv() {
                    hasher.update(&piece);
                }
                hasher.finalize()
            });
            (sender, (algorithm, thread))
        })
        .unzip();
    (Feed(senders), Hashing(threads))
}

impl Feed {
    /// Hands on the next piece of the stream; waits while a thread lags behind.
    pub(super) async fn push(&self, piece: &Bytes) {
        for thread in &self.0 {
            thread
                .send(piece.clone())
                .await
                .expect("a hash thread lives as long as its feed");
        }
    }
}

impl Hashing {
    /// Waits for the hashes of all that went into the [`Feed`], which must have been dropped.
    pub(super) async fn finish(self) -> Digests {
        let mut digests = Digests::new();
        for (algorithm, thread) in self.0 {
            let digest = thread.await.expect("a hash thread does not panic");
            digests.insert(algorithm, hex::encode(digest));
        }
        digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors for "abc": RFC 1321 and FIPS 180-4.
    #[tokio::test]
    async fn standard_vectors() {
        let (feed, hashing) = start([Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512]);
        for piece in ["a", "", "bc"] {
            feed.push(&Bytes::from(piece)).await;
        }
        drop(feed);
        let digests = hashing.finish().await;
        assert_eq!(digests[&Algorithm::Md5], "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            digests[&Algorithm::Sha256],
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(digests[&Algorithm::Sha512].starts_with("ddaf35a193617abacc417349ae204131"));
    }
}
