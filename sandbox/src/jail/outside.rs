//! What the sandbox needs of the host beside its sockets and the files of a command: read and
//! opened before the doors close, kept as values and descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use kvm_ioctls::Kvm;

use super::privileges;
use crate::host::HostIdentity;

/// Things of the outside.
#[derive(Debug)]
pub struct Outside {
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// What kind of host this is.
    pub host: HostIdentity,
    /// `/proc/self/pagemap`: which pages of guest memory are this process's own.
    pub pagemap: File,
}

/// Why something can't be had.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// No KVM.
    #[error("opening /dev/kvm: {0}")]
    Kvm(kvm_ioctls::Error),
    /// The host does not say what it is.
    #[error("{0}: {1}")]
    Proc(&'static str, io::Error),
}

impl Outside {
    /// Takes `/dev/kvm` from the owner, or opens it, and the rest.
    pub fn gather(kvm: Option<OwnedFd>) -> Result<Self, OutsideError> {
        let kvm = match kvm {
            // SAFETY: the descriptor is owned, and from here on by the Kvm alone.
            Some(fd) => unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) },
            None => Kvm::new().map_err(OutsideError::Kvm)?,
        };
        let host = HostIdentity::detect().map_err(|e| OutsideError::Proc("/proc/cpuinfo", e))?;
        // A pagemap that was opened with CAP_SYS_ADMIN tells physical addresses for ever after:
        // half of a Rowhammer attack.
        let pagemap =
            privileges::without_effective_capabilities(|| File::open("/proc/self/pagemap"))
                .map_err(|e| OutsideError::Proc("/proc/self/pagemap", e))?;
        Ok(Self { kvm, host, pagemap })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn the_pagemap_tells_no_physical_address() {
        let outside = Outside::gather(None).unwrap();
        let here = Box::new(7u64);
        let page = (&raw const *here).addr() as u64 / 4096;
        let mut entry = [0; 8];
        outside.pagemap.read_exact_at(&mut entry, page * 8).unwrap();
        let entry = u64::from_ne_bytes(entry);
        assert_ne!(entry >> 63, 0, "the page is present");
        assert_eq!(entry & ((1 << 55) - 1), 0, "its frame's number is shown");
    }
}
