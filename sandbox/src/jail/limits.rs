//! Resource limits: what a sandbox that is no longer ours could use up.

use std::io;

use hearth_protocol::sandbox::MAX_MEMORY_MIB;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Standard streams, two sockets, KVM's three, the devices' eventfds, and a command's files twice:
/// about forty. Twice that with many vCPUs.
const DESCRIPTORS: u64 = 256;
/// Main thread, at most 32 vCPUs, and a thread that KVM starts for each VM.
const THREADS: u64 = 64;

/// Sets them. The number of threads is counted by user, so it is limited only when the user is this
/// process's alone.
pub fn set(own_user: bool) -> io::Result<()> {
    let mut limits = vec![
        (Resource::RLIMIT_NOFILE, DESCRIPTORS),
        // The largest file that a snapshot writes.
        (Resource::RLIMIT_FSIZE, u64::from(MAX_MEMORY_MIB) << 20),
        // A core file would hold the guest's memory.
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_RTPRIO, 0),
    ];
    if own_user {
        limits.push((Resource::RLIMIT_NPROC, THREADS));
    }
    for (resource, limit) in limits {
        // Whoever started this process may have set a lower one.
        let (soft, hard) = getrlimit(resource)?;
        setrlimit(resource, soft.min(limit), hard.min(limit))?;
    }
    Ok(())
}
