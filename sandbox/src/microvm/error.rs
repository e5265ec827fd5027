//! The errors of a microVM, and the kind of refusal that the controller gets for each.

use std::io;

use hearth_protocol::sandbox::{Refusal, RefusalKind};

use crate::boot::command_line::CommandLineTooLong;
use crate::boot::kernel::KernelError;
use crate::boot::registers::RegistersError;
use crate::devices::virtio::block::ImageError;
use crate::devices::virtio::{NotQuiet, RestoreError};
use crate::files::{FilesError, Role};
use crate::mailbox::MailboxError;
use crate::memory::MemoryError;
use crate::snapshot::state_file::StateFileError;
use crate::snapshot::unique::UniqueError;
use crate::vcpu::{StateError, VcpuError};

/// Why a microVM could not be booted, restored, run or saved.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum MicroVmError {
    #[error("{0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
    #[error("this host's KVM lacks {0}")]
    Capability(&'static str),
    #[error("{asked} vCPUs; this sandbox was started for {prepared}")]
    VcpuCount { asked: usize, prepared: usize },
    #[error("{given} disks; every microVM has {expected}, each with or without an image")]
    DiskCount { given: usize, expected: usize },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    CommandLine(#[from] CommandLineTooLong),
    #[error(transparent)]
    Registers(#[from] RegistersError),
    #[error("writing the MP table: {0}")]
    MpTable(#[from] vm_memory::GuestMemoryError),
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    #[error(transparent)]
    VcpuState(#[from] StateError),
    #[error(transparent)]
    Disk(#[from] ImageError),
    #[error("{0}: {1}")]
    Host(&'static str, io::Error),
    #[error(transparent)]
    NotQuiet(#[from] NotQuiet),
    #[error("mailbox state: {0}")]
    Mailbox(#[from] MailboxError),
    #[error("device state: {0}")]
    Device(#[from] RestoreError),
    #[error("snapshot {what}: made with {snapshot:?}, here is {here:?}")]
    Mismatch {
        what: &'static str,
        snapshot: String,
        here: String,
    },
    #[error(transparent)]
    StateFile(#[from] StateFileError),
    #[error("memory file: {0}")]
    MemoryFile(io::Error),
    #[error("snapshot: {0}")]
    Unique(UniqueError),
    #[error("state file: {0}")]
    SavedUnique(UniqueError),
    #[error(transparent)]
    Files(#[from] FilesError),
}

impl MicroVmError {
    /// The refusal that the controller gets. Its kind tells the controller what to do.
    pub fn refusal(&self) -> Refusal {
        let kind = match self {
            // The files of an old snapshot may be anything; the controller can rebuild the
            // snapshot.
            Self::Files(FilesError::NotAFile(Role::State | Role::Memory)) => {
                RefusalKind::SnapshotUnusable
            }
            Self::VcpuCount { .. }
            | Self::Files(_)
            | Self::DiskCount { .. }
            | Self::Memory(MemoryError::Size(_))
            | Self::CommandLine(_)
            | Self::Kernel(_)
            | Self::Unique(_)
            | Self::Disk(_) => RefusalKind::InvalidRequest,
            Self::NotQuiet(_) => RefusalKind::NotQuiet,
            Self::Mismatch { .. }
            | Self::StateFile(_)
            | Self::MemoryFile(_)
            | Self::SavedUnique(_)
            | Self::Device(_)
            | Self::Mailbox(_)
            | Self::VcpuState(_)
            | Self::Memory(MemoryError::FileSize { .. } | MemoryError::File(_)) => {
                RefusalKind::SnapshotUnusable
            }
            _ => RefusalKind::Host,
        };
        Refusal {
            kind,
            message: self.to_string(),
        }
    }
}
