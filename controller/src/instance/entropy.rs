//! Time and fresh entropy, which make each restored clone unique.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hearth_protocol::agent::{HostMessage, Thaw};

/// Bytes of entropy for one restore: twice the key size of the guest kernel's random generator.
const ENTROPY: usize = 64;

/// The first message to a restored guest. Each has new entropy; if the host gives none, there is no
/// message and the restore fails.
pub(crate) fn thaw() -> io::Result<HostMessage> {
    let mut entropy = [0; ENTROPY];
    getrandom::fill(&mut entropy).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(HostMessage::Thaw(
        Thaw {
            realtime_ns: realtime_ns(),
        },
        Bytes::copy_from_slice(&entropy),
    ))
}

/// Wall-clock time in nanoseconds since 1970.
pub(crate) fn realtime_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_restores_get_the_same_entropy() {
        let (HostMessage::Thaw(_, a), HostMessage::Thaw(_, b)) = (thaw().unwrap(), thaw().unwrap())
        else {
            panic!("not a thaw");
        };
        assert_eq!(a.len(), ENTROPY);
        assert_ne!(a, b);
    }
}
