//! Answers of Keystone that still count. Time is an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::Identity;

/// Most answers that are kept, some 500 bytes each; the least used go first.
const ENTRIES_MAX: usize = 16_384;

/// What a token is looked up by.
pub(super) type Key = [u8; 32];

/// When something is asked: on the clock that never jumps, and in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) monotonic: Instant,
    pub(super) unix_ms: u64,
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) identity: Arc<Identity>,
    /// When the token expires, in milliseconds since 1970.
    pub(super) expires_at: u64,
    /// When Keystone was asked.
    pub(super) asked: Instant,
}

/// How much an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// As much as a new one.
    Fresh,
    /// Something while Keystone does not answer.
    Stale,
    Nothing,
}

/// Valid tokens.
pub(super) struct TokenCache {
    answers: Cache<Key, Answer>,
    /// How long answers are fresh.
    fresh: Duration,
    /// How long they are stale after that.
    grace: Duration,
}

impl TokenCache {
    pub(super) fn new(fresh: Duration, grace: Duration) -> Self {
        Self {
            answers: Cache::new(ENTRIES_MAX),
            fresh,
            grace,
        }
    }

    /// What a token is looked up by.
    pub(super) fn key(token: &str) -> Key {
        *blake3::hash(token.as_bytes()).as_bytes()
    }

    /// The answer that is kept for a token, and what it is worth. `expired` tells whether it counts after the token
    /// has expired.
    pub(super) fn get(&self, key: &Key, expired: bool, now: Now) -> Option<(Answer, Worth)> {
        let answer = self.answers.get(key)?;
        let age = now.monotonic.saturating_duration_since(answer.asked);
        let worth = if now.unix_ms >= answer.expires_at && !expired {
            Worth::Nothing
        } else if age < self.fresh {
            Worth::Fresh
        } else if age < self.fresh + self.grace {
            Worth::Stale
        } else {
            Worth::Nothing
        };
        Some((answer, worth))
    }

    pub(super) fn put(&self, key: Key, answer: Answer) {
        self.answers.insert(key, answer);
    }

    /// Drops the answer of a token that turned out not to be valid any more.
    pub(super) fn forget(&self, key: &Key) {
        self.answers.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Duration = Duration::from_secs(60);
    const GRACE: Duration = Duration::from_secs(600);

    fn answer(asked: Instant, expires_at: u64) -> Answer {
        let identity = Arc::new(Identity::of(None, Some("p"), &["member"]));
        Answer {
            identity,
            expires_at,
            asked,
        }
    }

    #[test]
    fn answers_age() {
        let cache = TokenCache::new(FRESH, GRACE);
        let start = Instant::now();
        cache.put([1; 32], answer(start, 1_000_000));
        let worth = |after: u64, unix_ms, expired| {
            let monotonic = start + Duration::from_secs(after);
            let now = Now { monotonic, unix_ms };
            cache.get(&[1; 32], expired, now).map(|(_, worth)| worth)
        };
        assert_eq!(worth(0, 0, false), Some(Worth::Fresh));
        assert_eq!(worth(59, 0, false), Some(Worth::Fresh));
        assert_eq!(worth(60, 0, false), Some(Worth::Stale));
        assert_eq!(worth(659, 0, false), Some(Worth::Stale));
        assert_eq!(worth(660, 0, false), Some(Worth::Nothing));
        // Never beyond the token's own life, but with somebody to vouch for it.
        assert_eq!(worth(1, 999_999, false), Some(Worth::Fresh));
        assert_eq!(worth(1, 1_000_000, false), Some(Worth::Nothing));
        assert_eq!(worth(1, 1_000_000, true), Some(Worth::Fresh));
        cache.forget(&[1; 32]);
        assert_eq!(worth(0, 0, false), None);
    }

    #[test]
    fn the_number_of_answers_is_bounded() {
        let cache = TokenCache::new(FRESH, GRACE);
        let now = Instant::now();
        let answer = answer(now, u64::MAX);
        for n in 0..3 * ENTRIES_MAX as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            cache.put(key, answer.clone());
        }
        assert!(cache.answers.len() <= ENTRIES_MAX);
    }
}
