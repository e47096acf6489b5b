//! How failures are paced (RFC 5626 4.5): pauses that double, with a random part so that those who failed together do not come back together.

use std::time::Duration;

/// First pause after a failure; it doubles up to the limit for its kind.
const FIRST: Duration = Duration::from_millis(500);
/// The longest pause.
pub(crate) const MAX: Duration = Duration::from_secs(60);
/// Nobody is troubled by an attempt that the network refuses, and the server may be back any moment.
pub(crate) const MAX_REFUSED: Duration = Duration::from_secs(5);

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server's address refuses, at once.
    Unreachable,
    /// No answer in time.
    Silence,
    /// A final response that is no success; it may say how long to wait.
    Refused(Option<Duration>),
    /// A final response that another attempt would get again.
    Final,
}

/// How often it failed since the last success.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The last attempt failed.
    pub fn is_waiting(&self) -> bool {
        self.failures > 0
    }

    /// How long to wait after one more failure; `jitter` is between 0 and 1.
    pub fn pause(&mut self, failure: Failure, jitter: f64) -> Duration {
        let (limit, at_least) = match failure {
            Failure::Final => (MAX, MAX.mul_f64(0.5)),
            Failure::Unreachable => (MAX_REFUSED, Duration::ZERO),
            Failure::Silence => (MAX, Duration::ZERO),
            Failure::Refused(retry_after) => (MAX, retry_after.unwrap_or_default().min(MAX)),
        };
        let pause = FIRST.saturating_mul(1 << self.failures.min(10)).min(limit);
        self.failures += 1;
        pause.mul_f64(0.5 + 0.5 * jitter).max(at_least)
    }
}
