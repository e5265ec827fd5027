//! The time by which events age. What has to survive a restart can't be told by a monotonic clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::retry::millis;

/// Where the time comes from.
#[derive(Debug, Clone)]
pub(crate) enum Clock {
    /// The host's clock.
    Host,
    /// Time that passes when a test says so.
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
