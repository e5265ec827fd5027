//! The process's user and capabilities, what other processes can see of it, and the signal at its
//! parent's death.

use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// More than Linux has (41). The kernel refuses a number that it does not know, which ends the
/// loop.
const CAPABILITIES: libc::c_ulong = 64;
/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: two words for each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// A user and a group that no other process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    uid: u32,
    gid: u32,
}

/// An id that would keep root's rights, or that is no id.
#[derive(Debug, thiserror::Error)]
#[error("user {uid} and group {gid}: neither may be 0 or {max}", max = u32::MAX)]
pub struct IdentityError {
    uid: u32,
    gid: u32,
}

impl Identity {
    /// Refuses root and -1, which the kernel takes for "leave unchanged".
    pub fn new(uid: u32, gid: u32) -> Result<Self, IdentityError> {
        if [uid, gid].iter().any(|id| [0, u32::MAX].contains(id)) {
            return Err(IdentityError { uid, gid });
        }
        Ok(Self { uid, gid })
    }
}

/// Becomes this user permanently, without supplementary groups.
pub fn become_user(identity: Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    // Groups first: after `setresuid` the process may not change them.
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// Empties the capability bounding set. A process without CAP_SETPCAP can't, and does not need to:
/// `no_new_privs` is set in any case.
pub fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..CAPABILITIES {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => return Ok(()),
            // The kernel knows no more capabilities.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Empties the effective, permitted, inheritable and ambient sets.
pub fn drop_capabilities() -> io::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
    )?;
    set_capabilities([CapabilitySets::default(); 2])
}

/// Runs `what` without effective capabilities, and restores them afterwards.
pub fn without_effective_capabilities<T>(what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = capabilities()?;
    set_capabilities(before.map(|sets| CapabilitySets {
        effective: 0,
        ..sets
    }))?;
    let result = what();
    set_capabilities(before)?;
    result
}

/// From now on, no program that this process executes gains privileges (setuid bits, file
/// capabilities).
pub fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// Disables core files and ptrace, and gives `/proc/PID` to root. The controller must be root then:
/// without root it reads its sandboxes' memory figures there, which only works for the same user.
pub fn hide_from_others() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0).map(drop)
}

/// The signal that this process gets when the thread that started it ends; 0 if none.
pub fn parent_death_signal() -> io::Result<libc::c_ulong> {
    let mut signal: libc::c_int = 0;
    let place = (&raw mut signal).expose_provenance() as libc::c_ulong;
    prctl(libc::PR_GET_PDEATHSIG, place)?;
    Ok(libc::c_ulong::try_from(signal).unwrap_or_default())
}

/// Sets that signal again. If the parent has ended meanwhile, the control socket is closed, which
/// ends this process too.
pub fn die_with_parent(signal: libc::c_ulong) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal).map(drop)
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<libc::c_int> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take a number, or the address of a live local of the right
    // type that only this call writes to.
    let result = unsafe { libc::prctl(option, argument, zero, zero, zero) };
    Ok(Errno::result(result)?)
}

/// `struct __user_cap_header_struct` of linux/capability.h.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`: 32 capabilities of each set.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const OWN: CapabilityHeader = CapabilityHeader {
    version: CAPABILITY_VERSION,
    pid: 0,
};

fn capabilities() -> io::Result<[CapabilitySets; 2]> {
    let mut header = OWN;
    let mut sets = [CapabilitySets::default(); 2];
    // SAFETY: header and sets are live locals of the shapes that this version of the call has.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    Errno::result(result)?;
    Ok(sets)
}

fn set_capabilities(sets: [CapabilitySets; 2]) -> io::Result<()> {
    let mut header = OWN;
    // SAFETY: as above; the kernel only reads the sets.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_nobody_in_particular_are_no_identity() {
        assert!(Identity::new(0, 5).is_err());
        assert!(Identity::new(5, 0).is_err());
        assert!(Identity::new(u32::MAX, 5).is_err());
        assert!(Identity::new(5, 5).is_ok());
    }

    #[test]
    fn capabilities_come_back_after_a_call_without_them() {
        let before = capabilities().unwrap();
        let during = without_effective_capabilities(capabilities).unwrap();
        assert_eq!(during[0].effective, 0);
        assert_eq!(capabilities().unwrap(), before);
    }
}
