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
    fill(&mut entropy)?;
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

fn fill(buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        // SAFETY: the pointer and length are those of a live, exclusively borrowed slice.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
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
