//! The files that come with a command as descriptors. The controller opens them, because the
//! sandbox can't. Their number, order and access mode are checked before anything is done with
//! them.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::{fmt, io};

use hearth_protocol::sandbox::{Boot, Command, Restore};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The kernel of a boot.
    Kernel,
    /// A snapshot's state file.
    State,
    /// A snapshot's memory file.
    Memory,
    /// The image of the disk with this number.
    Disk(usize),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("kernel"),
            Self::State => f.write_str("state file"),
            Self::Memory => f.write_str("memory file"),
            Self::Disk(number) => write!(f, "image of disk {number}"),
        }
    }
}

/// Why a command's descriptors can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Too few or too many.
    #[error("the command came with {given} descriptors, it needs {expected}")]
    Count {
        /// How many came.
        given: usize,
        /// How many the command needs.
        expected: usize,
    },
    /// A directory, device, pipe or socket.
    #[error("the {0} is not a regular file")]
    NotAFile(Role),
    /// It is open for another access than its role needs.
    #[error("the {role} must be opened for {wanted} only")]
    Access {
        /// The file.
        role: Role,
        /// `reading` or `writing`.
        wanted: &'static str,
    },
    /// `fcntl` or `fstat` failed.
    #[error("looking at the {0}: {1}")]
    Unknown(Role, io::Error),
}

/// The files of a [`Boot`] command.
#[derive(Debug)]
pub struct BootFiles {
    /// An ELF `vmlinux`.
    pub kernel: File,
    /// Images in device order; `None` for a drive without a medium.
    pub disks: Vec<Option<File>>,
}

/// The files of a [`Restore`] command.
#[derive(Debug)]
pub struct RestoreFiles {
    /// State of the vCPUs, the VM and the devices.
    pub state: File,
    /// Guest memory.
    pub memory: File,
    /// Images in device order; `None` for a drive without a medium.
    pub disks: Vec<Option<File>>,
}

/// The files of a `Snapshot` command.
#[derive(Debug)]
pub struct SnapshotFiles {
    /// State of the vCPUs, the VM and the devices.
    pub state: File,
    /// Guest memory.
    pub memory: File,
}

/// Refuses a command that came with too few or too many descriptors.
pub fn check_count(command: &Command, descriptors: &[OwnedFd]) -> Result<(), FilesError> {
    let (given, expected) = (descriptors.len(), command.descriptors());
    if given == expected {
        Ok(())
    } else {
        Err(FilesError::Count { given, expected })
    }
}

impl BootFiles {
    /// Takes the descriptors of a `Boot` command.
    pub fn take(boot: &Boot, descriptors: Vec<OwnedFd>) -> Result<Self, FilesError> {
        let mut from = descriptors.into_iter();
        Ok(Self {
            kernel: next(&mut from, Role::Kernel, OFlag::O_RDONLY)?,
            disks: disks(&boot.disks, &mut from)?,
        })
    }
}

impl RestoreFiles {
    /// Takes the descriptors of a `Restore` command.
    pub fn take(restore: &Restore, descriptors: Vec<OwnedFd>) -> Result<Self, FilesError> {
        let mut from = descriptors.into_iter();
        Ok(Self {
            state: next(&mut from, Role::State, OFlag::O_RDONLY)?,
            memory: next(&mut from, Role::Memory, OFlag::O_RDONLY)?,
            disks: disks(&restore.disks, &mut from)?,
        })
    }
}

impl SnapshotFiles {
    /// Takes the descriptors of a `Snapshot` command.
    pub fn take(descriptors: Vec<OwnedFd>) -> Result<Self, FilesError> {
        let mut from = descriptors.into_iter();
        Ok(Self {
            state: next(&mut from, Role::State, OFlag::O_WRONLY)?,
            memory: next(&mut from, Role::Memory, OFlag::O_WRONLY)?,
        })
    }
}

fn disks(
    images: &[bool],
    from: &mut impl Iterator<Item = OwnedFd>,
) -> Result<Vec<Option<File>>, FilesError> {
    images
        .iter()
        .enumerate()
        .map(|(number, image)| {
            image
                .then(|| next(from, Role::Disk(number), OFlag::O_RDONLY))
                .transpose()
        })
        .collect()
}

fn next(
    from: &mut impl Iterator<Item = OwnedFd>,
    role: Role,
    access: OFlag,
) -> Result<File, FilesError> {
    let descriptor = from.next().ok_or(FilesError::Count {
        given: 0,
        expected: 1,
    })?;
    let unknown = |e: nix::Error| FilesError::Unknown(role, e.into());
    let flags = fcntl(descriptor.as_fd(), FcntlArg::F_GETFL).map_err(unknown)?;
    if OFlag::from_bits_retain(flags) & (OFlag::O_ACCMODE | OFlag::O_PATH) != access {
        let wanted = if access == OFlag::O_RDONLY {
            "reading"
        } else {
            "writing"
        };
        return Err(FilesError::Access { role, wanted });
    }
    let file = File::from(descriptor);
    let metadata = file.metadata().map_err(|e| FilesError::Unknown(role, e))?;
    if metadata.is_file() {
        Ok(file)
    } else {
        Err(FilesError::NotAFile(role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restore(disks: &[bool]) -> Restore {
        Restore {
            disks: disks.to_vec(),
            fingerprint: String::new(),
            resume: None,
        }
    }

    fn opened(write: bool) -> OwnedFd {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut options = File::options();
        options
            .read(!write)
            .write(write)
            .open(file.path())
            .unwrap()
            .into()
    }

    #[test]
    fn a_command_with_another_number_of_descriptors_is_refused() {
        let command = Command::Restore(restore(&[true, false]));
        for given in [0, 2, 4] {
            let descriptors: Vec<_> = (0..given).map(|_| opened(false)).collect();
            assert!(matches!(
                check_count(&command, &descriptors),
                Err(FilesError::Count { expected: 3, .. })
            ));
        }
    }

    #[test]
    fn files_are_told_apart_by_their_order() {
        let descriptors = (0..3).map(|_| opened(false)).collect();
        let files = RestoreFiles::take(&restore(&[false, true, false]), descriptors).unwrap();
        let there: Vec<_> = files.disks.iter().map(Option::is_some).collect();
        assert_eq!(there, [false, true, false]);
    }

    #[test]
    fn a_file_that_could_be_written_to_is_refused_as_input_and_one_that_could_not_as_output() {
        let descriptors = vec![opened(false), opened(true)];
        assert!(matches!(
            RestoreFiles::take(&restore(&[]), descriptors),
            Err(FilesError::Access {
                role: Role::Memory,
                wanted: "reading"
            })
        ));
        assert!(SnapshotFiles::take(vec![opened(true), opened(true)]).is_ok());
        assert!(SnapshotFiles::take(vec![opened(true), opened(false)]).is_err());
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let device = File::open("/dev/null").unwrap().into();
        assert!(matches!(
            RestoreFiles::take(&restore(&[]), vec![device]),
            Err(FilesError::NotAFile(Role::State))
        ));
    }
}
