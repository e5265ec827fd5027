//! The clock that measures the age of events. It is the wall clock, because ages have to survive a
//! restart, which a monotonic clock does not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::retry::millis;

/// The source of the time.
#[derive(Debug, Clone)]
pub(crate) enum Clock {
    /// The host's clock.
    Host,
    /// A time that a test sets.
    #[cfg(test)]
    Test(std::sync::Arc<std::sync::atomic::AtomicI64>),
}

impl Clock {
    /// Milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        match self {
            Self::Host => millis(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or(Duration::ZERO),
            ),
            #[cfg(test)]
            Self::Test(now) => now.load(std::sync::atomic::Ordering::SeqCst),
        }
    }
}
