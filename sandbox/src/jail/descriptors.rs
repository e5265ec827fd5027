//! Closes the inherited descriptors that were not passed on purpose.

use std::io;
use std::os::fd::RawFd;

/// Closes every descriptor above the standard streams that is not in `keep`.
///
/// # Safety
/// Nothing in this process may own or use a descriptor that is not in `keep`.
pub unsafe fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    for (first, last) in gaps(keep) {
        // SAFETY: the caller guarantees that nothing uses these descriptors.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The ranges between the kept ones, both ends included.
fn gaps(keep: &[RawFd]) -> Vec<(u32, u32)> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .filter(|fd| *fd > 2)
        .collect();
    keep.sort_unstable();
    let mut ranges = Vec::new();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            ranges.push((first, fd - 1));
        }
        first = fd + 1;
    }
    ranges.push((first, u32::MAX));
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_left_out_and_nothing_else() {
        assert_eq!(gaps(&[]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[4, 3]), [(5, u32::MAX)]);
        assert_eq!(gaps(&[900, 5, 0]), [(3, 4), (6, 899), (901, u32::MAX)]);
    }
}
