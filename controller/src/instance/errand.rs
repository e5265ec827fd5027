//! Commands with their files. A sandbox opens nothing itself: what it may read or write is opened
//! here, with the controller's rights, for exactly what it is for.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use hearth_protocol::sandbox::{Boot, Command, Refusal, RefusalKind, Restore, Resume, Snapshot};

use super::microvm::VmError;
use crate::function::{Sealed, SnapshotFiles};

/// A command and the files that go with it, in the order that the command wants them in.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(super) command: Command,
    pub(super) files: Vec<File>,
}

impl Errand {
    /// Refuses files that are not those which were compared with their seal.
    pub(crate) fn checked(&self, sealed: &Sealed) -> Result<(), VmError> {
        if sealed.vouches_for(&self.files) {
            return Ok(());
        }
        Err(VmError::Refused(Refusal {
            kind: RefusalKind::SnapshotUnusable,
            message: "a file of the snapshot has changed since it was looked at".into(),
        }))
    }
}

impl From<Command> for Errand {
    fn from(command: Command) -> Self {
        let files = Vec::new();
        Self { command, files }
    }
}

/// What to boot.
#[derive(Debug, Clone)]
pub(crate) struct BootFrom {
    pub(crate) kernel: PathBuf,
    pub(crate) disks: Vec<Option<PathBuf>>,
    pub(crate) memory_mib: u32,
    /// See [`Boot::fingerprint`].
    pub(crate) fingerprint: String,
}

/// What to restore.
#[derive(Debug, Clone)]
pub(crate) struct RestoreFrom {
    pub(crate) snapshot: SnapshotFiles,
    pub(crate) disks: Vec<Option<PathBuf>>,
    /// Must equal the snapshot's.
    pub(crate) fingerprint: String,
    pub(crate) resume: Option<Resume>,
}

/// Files that a snapshot is written into: new ones, in a folder that is not the snapshot's yet.
#[derive(Debug)]
pub(crate) struct SnapshotOutput {
    state: File,
    memory: File,
}

impl BootFrom {
    pub(crate) fn errand(self) -> Result<Errand, VmError> {
        let mut files = vec![open(&self.kernel, RefusalKind::Host)?];
        let boot = Boot {
            memory_mib: self.memory_mib,
            vcpus: 1,
            disks: open_disks(&self.disks, &mut files)?,
            kernel_args: String::new(),
            fingerprint: self.fingerprint,
        };
        let command = Command::Boot(boot);
        Ok(Errand { command, files })
    }
}

impl RestoreFrom {
    pub(crate) fn errand(self) -> Result<Errand, VmError> {
        // Without its files a snapshot is as good as none: it can be made anew.
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
        Ok(Errand { command, files })
    }
}

impl SnapshotOutput {
    /// Makes the files. None may be there: a file that some microVM maps is never written to.
    pub(crate) fn create(files: &SnapshotFiles) -> io::Result<Self> {
        let new = |path: &Path| File::options().write(true).create_new(true).open(path);
        Ok(Self {
            state: new(&files.state)?,
            memory: new(&files.memory)?,
        })
    }

    /// The command, which may be given until it succeeds.
    pub(crate) fn errand(&self, unique: &Snapshot) -> Result<Errand, VmError> {
        Ok(Errand {
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

/// A file that can't be opened counts as one that the sandbox refused: callers treat them alike.
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
        for errand in [
            restore(dir.path(), &image).errand().unwrap(),
            output.errand(&Snapshot::default()).unwrap(),
        ] {
            assert_eq!(errand.files.len(), errand.command.descriptors());
        }
    }

    #[test]
    fn a_snapshot_whose_files_are_gone_is_unusable_and_a_missing_image_is_not_its_fault() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let refusal = |error| match error {
            VmError::Refused(refusal) => refusal.kind,
            other => panic!("{other}"),
        };
        let error = restore(dir.path(), &gone).errand().unwrap_err();
        assert_eq!(refusal(error), RefusalKind::SnapshotUnusable);
        SnapshotOutput::create(&files(dir.path())).unwrap();
        let error = restore(dir.path(), &gone).errand().unwrap_err();
        assert_eq!(refusal(error), RefusalKind::InvalidRequest);
    }

    #[test]
    fn a_snapshot_is_never_written_over_files_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        SnapshotOutput::create(&files(dir.path())).unwrap();
        assert!(SnapshotOutput::create(&files(dir.path())).is_err());
    }
}
