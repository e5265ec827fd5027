//! Attaches a function's code: waits for the disks' media and mounts them.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hearth_protocol::agent::Configure;
use hearth_protocol::guest::{CODE_DEVICE, LAYERS_DEVICE};
use nix::errno::Errno;

use crate::machine::{self, MachineError};

/// Maximum time from a restore until a disk has its medium. The interrupt is handled within milliseconds,
/// but software KVM under load takes longer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Interval between two looks at a disk's size. Only a deploy waits here.
const INTERVAL: Duration = Duration::from_millis(5);

/// Why the code could not be attached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodeError {
    #[error("opening {device}: {source}")]
    Open {
        device: &'static str,
        source: std::io::Error,
    },
    #[error("reading the size of {device}: {source}")]
    Size { device: &'static str, source: Errno },
    #[error("no medium in {device} within {DEADLINE:?}")]
    NoMedium { device: &'static str },
    #[error(transparent)]
    Mount(#[from] MachineError),
}

/// Mounts `/var/task`, `/opt` if the function has layers, and `/tmp`.
pub(crate) fn attach(function: &Configure) -> Result<(), CodeError> {
    wait_for_medium(CODE_DEVICE)?;
    machine::mount_image(CODE_DEVICE, "/var/task")?;
    if function.layers {
        wait_for_medium(LAYERS_DEVICE)?;
        machine::mount_image(LAYERS_DEVICE, "/opt")?;
    }
    Ok(machine::mount_tmp(function.ephemeral_storage_mib)?)
}

/// Waits until the disk, which was empty in the snapshot, has its medium. An interrupt sets the new
/// capacity shortly after a restore. The agent polls, because there is no further event if the interrupt
/// came before its first look.
fn wait_for_medium(device: &'static str) -> Result<(), CodeError> {
    let end = Instant::now() + DEADLINE;
    let disk = File::open(device).map_err(|source| CodeError::Open { device, source })?;
    loop {
        if size_of(&disk).map_err(|source| CodeError::Size { device, source })? > 0 {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(CodeError::NoMedium { device });
        }
        std::thread::sleep(INTERVAL);
    }
}

/// `BLKGETSIZE64`: `_IOR(0x12, 114, size_t)`.
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

fn size_of(disk: &File) -> Result<u64, Errno> {
    let mut size = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64, which `size` is.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), BLKGETSIZE64 as _, &raw mut size) };
    Errno::result(result).map(|_| size)
}
