//! What the sandbox needs of the host besides its sockets and the files of a command. It is read
//! and opened before the process enters its jail, and kept as values and descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use kvm_ioctls::Kvm;

use super::privileges;
use crate::host::HostIdentity;

/// Values and descriptors from outside of the jail.
#[derive(Debug)]
pub struct HostResources {
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// What identifies this host.
    pub host: HostIdentity,
    /// `/proc/self/pagemap`: which pages of guest memory this process has written to.
    pub pagemap: File,
}

/// Why one of them could not be read or opened.
#[derive(Debug, thiserror::Error)]
pub enum HostResourcesError {
    /// `/dev/kvm` could not be opened.
    #[error("opening /dev/kvm: {0}")]
    Kvm(kvm_ioctls::Error),
    /// A file in `/proc` could not be read or opened.
    #[error("{0}: {1}")]
    Proc(&'static str, io::Error),
}

impl HostResources {
    /// Takes `/dev/kvm` from the controller, or opens it; reads and opens the rest.
    pub fn open(kvm: Option<OwnedFd>) -> Result<Self, HostResourcesError> {
        let kvm = match kvm {
            // SAFETY: the descriptor is owned here, and passes to the Kvm, its only owner.
            Some(fd) => unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) },
            None => Kvm::new().map_err(HostResourcesError::Kvm)?,
        };
        let host =
            HostIdentity::detect().map_err(|e| HostResourcesError::Proc("/proc/cpuinfo", e))?;
        // A pagemap that was opened with CAP_SYS_ADMIN shows physical addresses for as long as it
        // is open. They are half of a Rowhammer attack, so it is opened without that capability.
        let pagemap =
            privileges::without_effective_capabilities(|| File::open("/proc/self/pagemap"))
                .map_err(|e| HostResourcesError::Proc("/proc/self/pagemap", e))?;
        Ok(Self { kvm, host, pagemap })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn the_pagemap_tells_no_physical_address() {
        let resources = HostResources::open(None).unwrap();
        let here = Box::new(7u64);
        let page = (&raw const *here).addr() as u64 / 4096;
        let mut entry = [0; 8];
        resources
            .pagemap
            .read_exact_at(&mut entry, page * 8)
            .unwrap();
        let entry = u64::from_ne_bytes(entry);
        assert_ne!(entry >> 63, 0, "the page is present");
        assert_eq!(entry & ((1 << 55) - 1), 0, "its frame's number is shown");
    }
}
