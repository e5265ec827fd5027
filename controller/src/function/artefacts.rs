//! The artefacts of a version: the files that its instances start from, and who owns them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hearth_protocol::agent::Configure;

use super::{FailedInit, Made, NoSnapshot, Sealed};

/// The fingerprints of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fingerprints {
    /// Of the boot: kernel, runtime image, memory size, sandbox program, kind of host. It is in the
    /// snapshot's state file, and the sandbox compares it.
    pub(crate) booted: String,
    /// Of the boot, and of everything else that the guest could see until its init ended. It is in the
    /// registry, and the controller compares it. A deploy may use any snapshot with its fingerprint.
    pub(crate) deployed: String,
}

/// What the instances of a version start from.
#[derive(Debug)]
pub(crate) enum StartsFrom {
    /// The function snapshot, in which init has ended.
    FunctionSnapshot,
    /// The runtime snapshot; the function's init then runs in each instance.
    RuntimeSnapshot(Box<InstanceInit>),
}

/// The start of an instance in which the function's init runs.
#[derive(Debug)]
pub(crate) struct InstanceInit {
    /// Folder of the runtime snapshot. All functions of that runtime and memory size share it, so it is
    /// not deleted with a version's files.
    pub(crate) runtime_snapshot: PathBuf,
    /// The configuration for the agent, without the log stream: each instance has its own.
    pub(crate) configure: Configure,
    /// Timeout of init.
    pub(crate) limit: Duration,
    /// When this process began to start instances so.
    pub(crate) since: Instant,
    /// Why there is no function snapshot.
    pub(crate) why: NoSnapshot,
}

/// Where the images and the snapshot of one deploy are. Each deploy that makes its files gives them names
/// of its own (images of the same code may be hard links to one file).
#[derive(Debug, Clone)]
pub(crate) struct ArtefactFiles {
    /// The deploy's key, which is part of the file names.
    pub(crate) key: String,
    /// The runtime image. It is not deleted with the other files.
    pub(crate) runtime_image: PathBuf,
    /// The image of the code.
    pub(crate) code_image: PathBuf,
    /// The image of the layers, if there are any.
    pub(crate) layers_image: Option<PathBuf>,
    /// Folder of the function snapshot, if there is one, and the seal.
    pub(crate) folder: PathBuf,
}

/// Images and snapshot of one deploy, and how many versions own them.
///
/// Two versions own the same artefacts while a deploy that reuses them replaces the version that it has
/// them from. When the last reference to this value is dropped, its files are deleted, unless an owner is
/// left: at the end of the controller those of the versions in the registry stay. References without
/// ownership (of running instances, of the kept snapshots) keep the files only as long as they exist.
#[derive(Debug)]
pub(crate) struct Artefacts {
    pub(crate) files: ArtefactFiles,
    pub(crate) fingerprints: Fingerprints,
    pub(crate) starts_from: StartsFrom,
    sealed: OnceLock<Sealed>,
    owners: AtomicUsize,
    unusable: AtomicBool,
    worked: AtomicBool,
}

impl Artefacts {
    /// Artefacts without an owner, whose files may not exist yet.
    pub(crate) fn new(
        files: ArtefactFiles,
        fingerprints: Fingerprints,
        starts_from: StartsFrom,
    ) -> Arc<Self> {
        Arc::new(Self {
            files,
            fingerprints,
            starts_from,
            sealed: OnceLock::new(),
            owners: AtomicUsize::new(0),
            unusable: AtomicBool::new(false),
            worked: AtomicBool::new(false),
        })
    }

    /// Adds an owner: a version, or the deploy that is about to make one.
    pub(crate) fn own(&self) {
        self.owners.fetch_add(1, Ordering::AcqRel);
    }

    /// Removes an owner that [`Self::own`] has added.
    pub(crate) fn disown(&self) {
        let known = self.owners.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(known > 0, "an owner is removed that was never added");
    }

    /// Records that a restore or a comparison has found the files unusable. They are deleted with the last
    /// reference, whoever owns them, and no deploy reuses them.
    pub(crate) fn mark_unusable(&self) {
        self.unusable.store(true, Ordering::Release);
    }

    pub(crate) fn is_unusable(&self) -> bool {
        self.unusable.load(Ordering::Acquire)
    }

    /// Records that an instance has started from these files.
    pub(crate) fn has_worked(&self) {
        self.worked.store(true, Ordering::Relaxed);
    }

    pub(super) fn worked(&self) -> bool {
        self.worked.load(Ordering::Relaxed)
    }

    /// Whether a deploy with this fingerprint may start its instances from these artefacts. There must be a
    /// function snapshot: where init runs in each instance, each deploy runs it once too.
    pub(crate) fn fits(&self, fingerprints: &Fingerprints) -> bool {
        matches!(self.starts_from, StartsFrom::FunctionSnapshot)
            && self.fingerprints == *fingerprints
            && !self.is_unusable()
    }

    /// The files of the snapshot from which instances are restored.
    pub(crate) fn snapshot(&self) -> SnapshotFiles {
        match &self.starts_from {
            StartsFrom::FunctionSnapshot => snapshot_files(&self.files.folder),
            StartsFrom::RuntimeSnapshot(init) => snapshot_files(&init.runtime_snapshot),
        }
    }

    /// The registry's record of these artefacts.
    pub(crate) fn made(&self) -> Made {
        Made {
            key: self.files.key.clone(),
            fingerprint: self.fingerprints.deployed.clone(),
            shared_generators: match self.no_snapshot() {
                Some(NoSnapshot::SharedGenerators(generators)) => Some(generators.clone()),
                _ => None,
            },
            failed_init: self.failed_init().cloned(),
        }
    }

    /// Why there is no function snapshot; `None` if there is one.
    fn no_snapshot(&self) -> Option<&NoSnapshot> {
        match &self.starts_from {
            StartsFrom::FunctionSnapshot => None,
            StartsFrom::RuntimeSnapshot(init) => Some(&init.why),
        }
    }

    /// The failure for which init is tried again in each instance, if one is.
    pub(crate) fn failed_init(&self) -> Option<&FailedInit> {
        match self.no_snapshot()? {
            NoSnapshot::InitFailed(failed) => Some(failed),
            NoSnapshot::SharedGenerators(_) => None,
        }
    }

    pub(crate) fn disks(&self) -> Vec<Option<PathBuf>> {
        vec![
            Some(self.files.runtime_image.clone()),
            Some(self.files.code_image.clone()),
            self.files.layers_image.clone(),
        ]
    }

    /// The seal of all files that a restore uses. They may include a runtime snapshot: if that is rebuilt,
    /// the seal does not match, and the version is rebuilt too.
    pub(crate) fn sealed(&self) -> &Sealed {
        self.sealed.get_or_init(|| {
            let SnapshotFiles { state, memory } = self.snapshot();
            let mut files = vec![state, memory];
            files.extend(self.disks().into_iter().flatten());
            let fingerprint = self.fingerprints.deployed.clone();
            Sealed::new(&self.files.folder, files, fingerprint)
        })
    }

    /// Whether all files exist.
    pub(crate) fn complete(&self) -> bool {
        let SnapshotFiles { state, memory } = self.snapshot();
        let layers = self.files.layers_image.as_ref();
        state.is_file()
            && memory.is_file()
            && self.files.code_image.is_file()
            && layers.is_none_or(|image| image.is_file())
    }

    /// The space on disk, in bytes, that is freed when the files are deleted: a hard link to an image counts
    /// as if it were the only one.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let SnapshotFiles { state, memory } = snapshot_files(&self.files.folder);
        [&state, &memory, &self.files.code_image]
            .into_iter()
            .chain(&self.files.layers_image)
            .map(|path| allocated(path))
            .sum()
    }
}

impl Drop for Artefacts {
    fn drop(&mut self) {
        if *self.owners.get_mut() > 0 && !*self.unusable.get_mut() {
            return;
        }
        let images = std::iter::once(&self.files.code_image).chain(&self.files.layers_image);
        let images = images.map(std::fs::remove_file);
        let removed = std::iter::once(std::fs::remove_dir_all(&self.files.folder)).chain(images);
        for result in removed {
            match result {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(
                        key = self.files.key,
                        %error,
                        "the controller could not delete files of an earlier deploy"
                    );
                }
                _ => {}
            }
        }
    }
}

/// The bytes that the file system has allocated for a file; 0 if there is none. Memory files are sparse.
fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // POSIX counts in blocks of 512 bytes, whatever the file system's own are.
    std::fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// The two files of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotFiles {
    /// vCPU, KVM and device state.
    pub(crate) state: PathBuf,
    /// Guest memory, sparse.
    pub(crate) memory: PathBuf,
}

/// The files of a snapshot in `folder`.
pub(crate) fn snapshot_files(folder: &Path) -> SnapshotFiles {
    SnapshotFiles {
        state: folder.join("state"),
        memory: folder.join("memory"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Artefacts without an owner, whose files exist in a new folder of this name.
    pub(crate) fn artefacts_in(folder: &Path, name: &str, deployed: &str) -> Arc<Artefacts> {
        let place = folder.join(name);
        std::fs::create_dir(&place).unwrap();
        let code = folder.join(format!("{name}.erofs"));
        for file in [&place.join("state"), &place.join("memory"), &code] {
            std::fs::write(file, name).unwrap();
        }
        let files = ArtefactFiles {
            key: name.into(),
            runtime_image: code.clone(),
            code_image: code,
            layers_image: None,
            folder: place,
        };
        let fingerprints = Fingerprints {
            booted: "b".into(),
            deployed: deployed.into(),
        };
        let artefacts = Artefacts::new(files, fingerprints, StartsFrom::FunctionSnapshot);
        artefacts.sealed().seal().unwrap();
        artefacts
    }

    fn exist(files: &ArtefactFiles) -> bool {
        let (folder, image) = (files.folder.exists(), files.code_image.exists());
        assert_eq!(folder, image, "all files are deleted together");
        folder
    }

    #[test]
    fn files_without_an_owner_stay_until_the_last_reference_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let first = artefacts_in(dir.path(), "a", "f");
        let files = first.files.clone();
        first.own();
        let second = first.clone();
        first.disown();
        drop(first);
        assert!(second.complete());
        drop(second);
        assert!(!exist(&files));
    }

    #[test]
    fn files_stay_when_the_controller_ends_as_long_as_a_version_owns_them() {
        let dir = tempfile::tempdir().unwrap();
        let artefacts = artefacts_in(dir.path(), "a", "f");
        let files = artefacts.files.clone();
        artefacts.own();
        drop(artefacts);
        assert!(exist(&files));
    }

    #[test]
    fn the_end_of_one_owner_leaves_the_files_to_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let former = artefacts_in(dir.path(), "a", "f");
        let files = former.files.clone();
        former.own();
        let present = former.clone();
        present.own();
        former.disown();
        drop(former);
        assert!(exist(&files));
        present.disown();
        drop(present);
        assert!(!exist(&files));
    }

    #[test]
    fn unusable_files_are_deleted_whoever_owns_them_and_fit_no_deploy() {
        let dir = tempfile::tempdir().unwrap();
        let artefacts = artefacts_in(dir.path(), "a", "f");
        let files = artefacts.files.clone();
        let fingerprints = artefacts.fingerprints.clone();
        artefacts.own();
        assert!(artefacts.fits(&fingerprints));
        artefacts.mark_unusable();
        assert!(!artefacts.fits(&fingerprints));
        drop(artefacts);
        assert!(!exist(&files));
    }

    #[test]
    fn artefacts_fit_their_own_fingerprints_alone() {
        let dir = tempfile::tempdir().unwrap();
        let artefacts = artefacts_in(dir.path(), "a", "f");
        let other = |booted: &str, deployed: &str| Fingerprints {
            booted: booted.into(),
            deployed: deployed.into(),
        };
        assert!(artefacts.fits(&other("b", "f")));
        assert!(!artefacts.fits(&other("b", "g")));
        assert!(!artefacts.fits(&other("c", "f")));
    }
}
