//! How many instructions KVM has emulated for a vCPU. On a software-KVM host the guest's kernel
//! runs in KVM's interpreter, so this count tells whether the guest's kernel has run at all.
//!
//! The count comes from KVM's binary statistics (`KVM_GET_STATS_FD`), a file of fixed layout: a
//! header with the offsets of the other two parts, the descriptions (each a name and the offset of
//! a value), and the values.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;

/// `_IO(KVMIO, 0xce)` of linux/kvm.h.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// Bytes of the header, and of a description without its name.
const HEADER: usize = 24;
const DESCRIPTION: usize = 16;
/// A bound for the search: more values than any version of KVM has.
const MAX_VALUES: u32 = 4096;
const NAME: &[u8] = b"insn_emulation";

/// The count of one vCPU.
#[derive(Debug)]
pub struct EmulationCounter {
    file: File,
    at: u64,
}

impl EmulationCounter {
    /// `None` if this KVM has no such statistics.
    pub fn of(vcpu: &VcpuFd) -> Option<Self> {
        // SAFETY: without an argument; what comes back is a new descriptor, or an error.
        let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor is new, so this is its only owner.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).ok()?;
        let name_len = word(&header, 4)? as usize;
        let (count, names, values) = (word(&header, 8)?, word(&header, 16)?, word(&header, 20)?);
        let mut description = vec![0; DESCRIPTION + name_len.min(256)];
        for n in 0..u64::from(count.min(MAX_VALUES)) {
            let at = u64::from(names) + n * description.len() as u64;
            file.read_exact_at(&mut description, at).ok()?;
            let name = description[DESCRIPTION..].split(|byte| *byte == 0).next()?;
            if name == NAME {
                let offset = word(&description, 8)?;
                let at = u64::from(values) + u64::from(offset);
                return Some(Self { file, at });
            }
        }
        None
    }

    /// Instructions emulated so far.
    pub(super) fn count(&self) -> Option<u64> {
        let mut value = [0; 8];
        self.file.read_exact_at(&mut value, self.at).ok()?;
        Some(u64::from_le_bytes(value))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(four))
}
