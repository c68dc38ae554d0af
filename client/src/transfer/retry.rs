//! When and how often to try again.

use std::time::Duration;

use tokio::time::sleep;

use crate::error::{Error, Result};

/// An attempt that moved at least this many bytes was no failure: the count of failures starts
/// again. So a transfer of S bytes makes at most `retries` × (S / 1 MiB + 1) attempts.
pub const PROGRESS_MIN: u64 = 1 << 20;

/// Longest wait that a server's `Retry-After` can ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How often and at which pace to repeat what failed in a way that may pass
/// ([`Error::is_transient`]).
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Repetitions in a row that may fail; 0 gives up at once.
    pub retries: u32,
    /// Wait before the first repetition; doubles with each, halved at random so that many clients
    /// of one server do not return together.
    pub first_delay: Duration,
    /// Where the doubling ends.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    /// Gives up after five repetitions, some ten seconds.
    fn default() -> Self {
        Self {
            retries: 5,
            first_delay: Duration::from_millis(500),
            delay_max: Duration::from_secs(8),
        }
    }
}

impl RetryPolicy {
    /// Runs `request` until it succeeds, fails for good, or the retries are used up. `on_retry`
    /// hears of each failure that is followed by a wait.
    ///
    /// # Errors
    /// The last error of `request`.
    pub async fn run<T>(
        self,
        mut on_retry: impl FnMut(&Error, Duration),
        mut request: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let mut backoff = Backoff::new(self);
        loop {
            match request().await {
                Ok(answer) => return Ok(answer),
                Err(error) => backoff.wait(error, 0, &mut on_retry).await?,
            }
        }
    }
}

/// The failures of one transfer.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: RetryPolicy,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            failures: 0,
        }
    }

    /// Waits before the next attempt, or gives `error` back if there is to be none. `moved` is
    /// what the failed attempt has transferred, in bytes.
    pub(super) async fn wait(
        &mut self,
        error: Error,
        moved: u64,
        mut on_retry: impl FnMut(&Error, Duration),
    ) -> Result<()> {
        if moved >= PROGRESS_MIN {
            self.failures = 0;
        }
        if !error.is_transient() || self.failures >= self.policy.retries {
            return Err(error);
        }
        let delay = self.delay(&error);
        self.failures += 1;
        on_retry(&error, delay);
        sleep(delay).await;
        Ok(())
    }

    fn delay(&self, error: &Error) -> Duration {
        let doubled = self
            .policy
            .first_delay
            .saturating_mul(1 << self.failures.min(20));
        let backoff = doubled
            .min(self.policy.delay_max)
            .mul_f64(rand::random_range(0.5..=1.0));
        let asked = match error {
            Error::Api(error) => error.retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        backoff.max(asked.min(RETRY_AFTER_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ApiError;

    fn unreachable() -> Error {
        Error::Unreachable {
            url: "http://site/".to_owned(),
            reason: "refused".to_owned(),
        }
    }

    fn policy(retries: u32) -> RetryPolicy {
        let delay = Duration::from_millis(1);
        RetryPolicy {
            retries,
            first_delay: delay,
            delay_max: delay,
        }
    }

    async fn attempts(retries: u32, error: fn() -> Error) -> u32 {
        let mut attempts = 0;
        let outcome: Result<()> = policy(retries)
            .run(
                |_, _| {},
                async || {
                    attempts += 1;
                    Err(error())
                },
            )
            .await;
        assert!(outcome.is_err());
        attempts
    }

    #[tokio::test]
    async fn only_passing_trouble_is_retried_and_not_for_ever() {
        assert_eq!(attempts(3, unreachable).await, 4);
        assert_eq!(attempts(0, unreachable).await, 1);
        let missing = || Error::NoSuchImage {
            name: "n".to_owned(),
        };
        assert_eq!(attempts(3, missing).await, 1);
    }

    #[tokio::test]
    async fn progress_starts_the_count_again() {
        let mut backoff = Backoff::new(policy(1));
        assert!(backoff.wait(unreachable(), 0, |_, _| {}).await.is_ok());
        assert!(
            backoff
                .wait(unreachable(), PROGRESS_MIN, |_, _| {})
                .await
                .is_ok()
        );
        assert!(
            backoff
                .wait(unreachable(), PROGRESS_MIN - 1, |_, _| {})
                .await
                .is_err()
        );
    }

    #[test]
    fn waits_double_and_end() {
        let mut backoff = Backoff::new(RetryPolicy::default());
        for seconds in [0.5, 1.0, 2.0, 4.0, 8.0, 8.0] {
            let delay = backoff.delay(&unreachable()).as_secs_f64();
            assert!(
                (seconds / 2.0..=seconds).contains(&delay),
                "{delay} of {seconds}"
            );
            backoff.failures += 1;
        }
    }

    #[test]
    fn the_server_may_ask_for_a_longer_wait_but_not_for_any() {
        let busy = |seconds| {
            Error::from(Box::new(ApiError {
                request: String::new(),
                status: 503,
                message: String::new(),
                hint: None,
                request_id: None,
                retry_after: Some(Duration::from_secs(seconds)),
            }))
        };
        let backoff = Backoff::new(RetryPolicy::default());
        assert_eq!(backoff.delay(&busy(20)), Duration::from_secs(20));
        assert_eq!(backoff.delay(&busy(u64::MAX)), RETRY_AFTER_MAX);
    }
}
