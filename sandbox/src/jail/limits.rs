//! Resource limits: what an attacker who controls the sandbox process could use up.

use std::io;

use hearth_protocol::sandbox::MAX_MEMORY_MIB;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Standard streams, two sockets, KVM's three, the devices' eventfds, and a command's files twice:
/// about forty, and about eighty with many vCPUs.
const DESCRIPTORS: u64 = 256;
/// The main thread, at most 32 vCPUs' threads, and a thread that KVM starts for each VM.
const THREADS: u64 = 64;

/// Sets the limits. The kernel counts threads for each user, so their number is limited only if no
/// other process has this process's user.
pub fn set(own_user: bool) -> io::Result<()> {
    let mut limits = vec![
        (Resource::RLIMIT_NOFILE, DESCRIPTORS),
        // The largest file that a snapshot has.
        (Resource::RLIMIT_FSIZE, u64::from(MAX_MEMORY_MIB) << 20),
        // A core file would contain the guest's memory.
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_RTPRIO, 0),
    ];
    if own_user {
        limits.push((Resource::RLIMIT_NPROC, THREADS));
    }
    for (resource, limit) in limits {
        // The process that started this one may have set a lower limit.
        let (soft, hard) = getrlimit(resource)?;
        setrlimit(resource, soft.min(limit), hard.min(limit))?;
    }
    Ok(())
}
