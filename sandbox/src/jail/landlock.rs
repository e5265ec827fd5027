//! Landlock: the thread, and those that it starts, may not access files by name, use a TCP port,
//! connect to an abstract Unix socket, or signal a process outside; as far as this kernel's version
//! supports each. Descriptors that are open stay usable.
//! <https://docs.kernel.org/userspace-api/landlock.html>

use std::io;

use nix::errno::Errno;

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const ASK_VERSION: u32 = 1;

/// `struct landlock_ruleset_attr`, as of version 6.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ruleset {
    files: u64,
    network: u64,
    scopes: u64,
}

/// Denies everything that this kernel's version can deny.
pub fn deny_everything() -> io::Result<()> {
    let (ruleset, size) = everything(version()?);
    // SAFETY: the attribute is a live local, and the kernel reads `size` bytes of it at most.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size,
            0u32,
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: plain numbers; the ruleset has no rule, so nothing is allowed.
    let restricted = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd, 0u32) };
    let restricted = Errno::result(restricted);
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the descriptor was made above and is not used again.
    unsafe { libc::close(fd) };
    restricted?;
    Ok(())
}

fn version() -> io::Result<i64> {
    let nothing = std::ptr::null::<Ruleset>();
    // SAFETY: with this flag the kernel reads no attribute.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            nothing,
            0usize,
            ASK_VERSION,
        )
    };
    Ok(Errno::result(version)?)
}

/// What this version of Landlock can deny, and the size of the attribute that it knows.
fn everything(version: i64) -> (Ruleset, usize) {
    let rights = match version {
        ..=1 => 13,  // up to LANDLOCK_ACCESS_FS_MAKE_SYM
        2 => 14,     // and REFER
        3 | 4 => 15, // and TRUNCATE
        5.. => 16,   // and IOCTL_DEV
    };
    let ruleset = Ruleset {
        files: (1 << rights) - 1,
        network: if version >= 4 { 0b11 } else { 0 },
        scopes: if version >= 6 { 0b11 } else { 0 },
    };
    let words = match version {
        ..=3 => 1,
        4 | 5 => 2,
        6.. => 3,
    };
    (ruleset, words * size_of::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_asked_for_what_it_knows() {
        let (ruleset, size) = everything(1);
        assert_eq!((ruleset.files, ruleset.network, size), (0x1fff, 0, 8));
        let (ruleset, size) = everything(4);
        assert_eq!((ruleset.files, ruleset.network, size), (0x7fff, 3, 16));
        let (ruleset, size) = everything(7);
        assert_eq!((ruleset.files, ruleset.scopes, size), (0xffff, 3, 24));
    }
}
