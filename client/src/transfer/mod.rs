//! Whole image files, to and from a site.

mod digest;
mod part;
mod pull;
mod push;
mod retry;
mod sparse;

pub use digest::Algorithm;
pub use pull::{PullError, PullEvent, PullOptions, Pulled, pull};
pub use push::{PushError, PushOptions, RecordFate, UploadFailure, push};
pub use retry::{PROGRESS_MIN, RETRY_AFTER_MAX, RetryPolicy};

use crate::image::Image;
use digest::Digests;

/// The hash of the bytes that moved is not the one that the site states.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{algorithm} of the data is {found}, but the image states {stated}")]
pub struct Mismatch {
    /// Which hash.
    pub algorithm: Algorithm,
    /// In the image record, hex.
    pub stated: String,
    /// Of the bytes, hex.
    pub found: String,
}

/// The hashes that a record states in algorithms that are known here.
fn stated_digests(image: &Image) -> Digests {
    let checksum = image
        .checksum
        .as_ref()
        .map(|value| (Algorithm::Md5, value.clone()));
    let os_hash = image.os_hash_algo.as_deref().and_then(Algorithm::from_name);
    let os_hash = os_hash.zip(image.os_hash_value.clone());
    checksum.into_iter().chain(os_hash).collect()
}

/// Compares every stated hash that was computed, and tells which those are.
fn check_digests(stated: &Digests, found: &Digests) -> Result<Vec<Algorithm>, Mismatch> {
    let mut verified = Vec::new();
    for (&algorithm, stated) in stated {
        let Some(found) = found.get(&algorithm) else {
            continue;
        };
        if !stated.eq_ignore_ascii_case(found) {
            return Err(Mismatch {
                algorithm,
                stated: stated.clone(),
                found: found.clone(),
            });
        }
        verified.push(algorithm);
    }
    Ok(verified)
}
