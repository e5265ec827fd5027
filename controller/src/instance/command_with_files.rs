//! Commands with their files. A sandbox does not open files: the controller opens, with its own rights,
//! exactly the files that a command needs, and passes the descriptors along.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use hearth_protocol::sandbox::{Boot, Command, Refusal, RefusalKind, Restore, Resume, Snapshot};

use super::microvm::VmError;
use crate::function::{Sealed, SnapshotFiles};

/// A command and its files, in the order that the command requires.
#[derive(Debug)]
pub(crate) struct CommandWithFiles {
    pub(super) command: Command,
    pub(super) files: Vec<File>,
}

impl CommandWithFiles {
    /// Fails if the files are not those that were compared with their seal.
    pub(crate) fn check(&self, sealed: &Sealed) -> Result<(), VmError> {
        if sealed.vouches_for(&self.files) {
            return Ok(());
        }
        Err(VmError::Refused(Refusal {
            kind: RefusalKind::SnapshotUnusable,
            message: "a file of the snapshot has changed since it was compared with its seal"
                .into(),
        }))
    }
}

impl From<Command> for CommandWithFiles {
    fn from(command: Command) -> Self {
        let files = Vec::new();
        Self { command, files }
    }
}

/// The parts of a microVM that boots.
#[derive(Debug, Clone)]
pub(crate) struct BootFrom {
    pub(crate) kernel: PathBuf,
    pub(crate) disks: Vec<Option<PathBuf>>,
    pub(crate) memory_mib: u32,
    /// See [`Boot::fingerprint`].
    pub(crate) fingerprint: String,
}

/// The parts of a microVM that is restored.
#[derive(Debug, Clone)]
pub(crate) struct RestoreFrom {
    pub(crate) snapshot: SnapshotFiles,
    pub(crate) disks: Vec<Option<PathBuf>>,
    /// Must be equal to the snapshot's.
    pub(crate) fingerprint: String,
    pub(crate) resume: Option<Resume>,
}

/// New files for a snapshot, in a temporary folder.
#[derive(Debug)]
pub(crate) struct SnapshotOutput {
    state: File,
    memory: File,
}

impl BootFrom {
    pub(crate) fn command(self) -> Result<CommandWithFiles, VmError> {
        let mut files = vec![open(&self.kernel, RefusalKind::Host)?];
        let boot = Boot {
            memory_mib: self.memory_mib,
            vcpus: 1,
            disks: open_disks(&self.disks, &mut files)?,
            kernel_args: String::new(),
            fingerprint: self.fingerprint,
        };
        let command = Command::Boot(boot);
        Ok(CommandWithFiles { command, files })
    }
}

impl RestoreFrom {
    pub(crate) fn command(self) -> Result<CommandWithFiles, VmError> {
        // A snapshot with a missing file is unusable, so that it is rebuilt.
        let mut files = vec![
            open(&self.snapshot.state, RefusalKind::SnapshotUnusable)?,
            open(&self.snapshot.memory, RefusalKind::SnapshotUnusable)?,
        ];
        let restore = Restore {
            disks: open_disks(&self.disks, &mut files)?,
            fingerprint: self.fingerprint,
            resume: self.resume,
        };
        let command = Command::Restore(restore);
        Ok(CommandWithFiles { command, files })
    }
}

impl SnapshotOutput {
    /// Creates the files. Fails if one exists: a file that a microVM may have mapped must never be written
    /// to.
    pub(crate) fn create(files: &SnapshotFiles) -> io::Result<Self> {
        let new = |path: &Path| File::options().write(true).create_new(true).open(path);
        Ok(Self {
            state: new(&files.state)?,
            memory: new(&files.memory)?,
        })
    }

    /// The command. It may be repeated until it succeeds.
    pub(crate) fn command(&self, unique: &Snapshot) -> Result<CommandWithFiles, VmError> {
        Ok(CommandWithFiles {
            command: Command::Snapshot(unique.clone()),
            files: vec![self.state.try_clone()?, self.memory.try_clone()?],
        })
    }
}

fn open_disks(disks: &[Option<PathBuf>], files: &mut Vec<File>) -> Result<Vec<bool>, VmError> {
    disks
        .iter()
        .map(|image| {
            if let Some(path) = image {
                files.push(open(path, RefusalKind::InvalidRequest)?);
            }
            Ok(image.is_some())
        })
        .collect()
}

/// Opens a file. An error is a refusal, as if the sandbox had refused the command.
fn open(path: &Path, kind: RefusalKind) -> Result<File, VmError> {
    File::open(path).map_err(|error| {
        let message = format!("{}: {error}", path.display());
        VmError::Refused(Refusal { kind, message })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> SnapshotFiles {
        SnapshotFiles {
            state: folder.join("state"),
            memory: folder.join("memory"),
        }
    }

    fn restore(folder: &Path, image: &Path) -> RestoreFrom {
        RestoreFrom {
            snapshot: files(folder),
            disks: vec![Some(image.into()), None],
            fingerprint: String::new(),
            resume: None,
        }
    }

    #[test]
    fn a_command_has_as_many_files_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let output = SnapshotOutput::create(&files(dir.path())).unwrap();
        let image = dir.path().join("state");
        for with_files in [
            restore(dir.path(), &image).command().unwrap(),
            output.command(&Snapshot::default()).unwrap(),
        ] {
            assert_eq!(with_files.files.len(), with_files.command.descriptors());
        }
    }

    #[test]
    fn a_snapshot_without_its_files_is_unusable_and_a_missing_image_is_an_invalid_request() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let refusal = |error| match error {
            VmError::Refused(refusal) => refusal.kind,
            other => panic!("{other}"),
        };
        let error = restore(dir.path(), &gone).command().unwrap_err();
        assert_eq!(refusal(error), RefusalKind::SnapshotUnusable);
        SnapshotOutput::create(&files(dir.path())).unwrap();
        let error = restore(dir.path(), &gone).command().unwrap_err();
        assert_eq!(refusal(error), RefusalKind::InvalidRequest);
    }

    #[test]
    fn a_snapshot_is_never_written_over_existing_files() {
        let dir = tempfile::tempdir().unwrap();
        SnapshotOutput::create(&files(dir.path())).unwrap();
        assert!(SnapshotOutput::create(&files(dir.path())).is_err());
    }
}
