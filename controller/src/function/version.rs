//! A version of a function that can run, and the artefacts that its instances start from.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use hearth_protocol::agent::Configure;

use super::{Code, FunctionConfig, FunctionName, Made, Sealed, SharedGenerators, VersionId};
use crate::locks::lock;

/// A version of a function that can run. Invocations, instances and the catalog share it. An instance
/// serves only the version that it was started from.
#[derive(Debug)]
pub(crate) struct Version {
    /// A number that is unique in this process.
    pub(crate) serial: u64,
    pub(crate) name: FunctionName,
    pub(crate) id: VersionId,
    pub(crate) config: FunctionConfig,
    pub(crate) code: Code,
    pub(crate) revision_id: String,
    artefacts: Mutex<Option<Arc<Artefacts>>>,
    retired: AtomicBool,
    /// Locked during a rebuild of the artefacts, so that concurrent callers share one. Holds the time and
    /// the reason of the last failure.
    pub(crate) rebuilding: tokio::sync::Mutex<Option<(Instant, String)>>,
}

impl Version {
    /// `artefacts` is `None` if they have to be rebuilt before the first start.
    pub(crate) fn new(
        name: FunctionName,
        id: VersionId,
        config: FunctionConfig,
        code: Code,
        revision_id: String,
        artefacts: Option<Arc<Artefacts>>,
    ) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            id,
            config,
            code,
            revision_id,
            artefacts: Mutex::new(artefacts),
            retired: AtomicBool::new(false),
            rebuilding: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.config.timeout_seconds.into())
    }

    /// Whether SnapStart is on for this version: its runtime runs hooks.
    pub(crate) fn snap_starts(&self) -> bool {
        self.config.snap_starts(self.id)
    }

    pub(crate) fn artefacts(&self) -> Option<Arc<Artefacts>> {
        lock(&self.artefacts).clone()
    }

    pub(crate) fn set_artefacts(&self, artefacts: Arc<Artefacts>) {
        *lock(&self.artefacts) = Some(artefacts);
    }

    /// Discards artefacts that could not be used, unless others have replaced them already.
    pub(crate) fn discard_artefacts(&self, unusable: &Arc<Artefacts>) {
        let mut place = lock(&self.artefacts);
        if place.as_ref().is_some_and(|now| Arc::ptr_eq(now, unusable)) {
            unusable.delete_when_unused();
            *place = None;
        }
    }

    /// Marks this version as replaced or deleted: no instance of it stays idle, and its files are deleted
    /// when they are unused.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        if let Some(artefacts) = self.artefacts() {
            artefacts.delete_when_unused();
        }
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

/// The fingerprints of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fingerprints {
    /// Of the boot: kernel, runtime image, memory size, sandbox program, kind of host. It is in the
    /// snapshot's state file, and the sandbox compares it.
    pub(crate) booted: String,
    /// Of the boot, the code and the configuration. It is in the registry, and the controller compares it.
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
    /// Why there is no function snapshot.
    pub(crate) generators: SharedGenerators,
}

/// Images and snapshot of one deploy. Each deploy has file names of its own (images of the same code may
/// be hard links to one file), so no deploy can delete the files of another. Files that are marked for
/// deletion are deleted when the last reference to this value is dropped.
#[derive(Debug)]
pub(crate) struct Artefacts {
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
    pub(crate) fingerprints: Fingerprints,
    pub(crate) starts_from: StartsFrom,
    sealed: OnceLock<Sealed>,
    delete_when_unused: AtomicBool,
}

impl Artefacts {
    pub(crate) fn new(
        key: String,
        runtime_image: PathBuf,
        code_image: PathBuf,
        layers_image: Option<PathBuf>,
        folder: PathBuf,
        fingerprints: Fingerprints,
        starts_from: StartsFrom,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            sealed: OnceLock::new(),
            starts_from,
            runtime_image,
            code_image,
            layers_image,
            folder,
            fingerprints,
            delete_when_unused: AtomicBool::new(false),
        })
    }

    /// The files of the snapshot from which instances are restored.
    pub(crate) fn snapshot(&self) -> SnapshotFiles {
        match &self.starts_from {
            StartsFrom::FunctionSnapshot => snapshot_files(&self.folder),
            StartsFrom::RuntimeSnapshot(init) => snapshot_files(&init.runtime_snapshot),
        }
    }

    /// The registry's record of these artefacts.
    pub(crate) fn made(&self) -> Made {
        Made {
            key: self.key.clone(),
            fingerprint: self.fingerprints.deployed.clone(),
            shared_generators: match &self.starts_from {
                StartsFrom::FunctionSnapshot => None,
                StartsFrom::RuntimeSnapshot(init) => Some(init.generators.clone()),
            },
        }
    }

    pub(crate) fn disks(&self) -> Vec<Option<PathBuf>> {
        vec![
            Some(self.runtime_image.clone()),
            Some(self.code_image.clone()),
            self.layers_image.clone(),
        ]
    }

    /// The seal of all files that a restore uses. They may include a runtime snapshot: if that is rebuilt,
    /// the seal does not match, and the version is rebuilt too.
    pub(crate) fn sealed(&self) -> &Sealed {
        self.sealed.get_or_init(|| {
            let SnapshotFiles { state, memory } = self.snapshot();
            let mut files = vec![state, memory];
            files.extend(self.disks().into_iter().flatten());
            Sealed::new(&self.folder, files, self.fingerprints.deployed.clone())
        })
    }

    /// Whether all files exist.
    pub(crate) fn complete(&self) -> bool {
        let files = self.snapshot();
        files.state.is_file()
            && files.memory.is_file()
            && self.code_image.is_file()
            && self
                .layers_image
                .as_ref()
                .is_none_or(|image| image.is_file())
    }

    /// Marks the files for deletion.
    pub(crate) fn delete_when_unused(&self) {
        self.delete_when_unused.store(true, Ordering::Relaxed);
    }

    /// Undoes [`Self::delete_when_unused`], for files that have become complete.
    pub(crate) fn keep(&self) {
        self.delete_when_unused.store(false, Ordering::Relaxed);
    }
}

impl Drop for Artefacts {
    fn drop(&mut self) {
        if !*self.delete_when_unused.get_mut() {
            return;
        }
        let images = std::iter::once(&self.code_image).chain(&self.layers_image);
        let images = images.map(std::fs::remove_file);
        let removed = std::iter::once(std::fs::remove_dir_all(&self.folder)).chain(images);
        for result in removed {
            match result {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(
                        key = self.key,
                        %error,
                        "the controller could not delete files of an earlier deploy"
                    );
                }
                _ => {}
            }
        }
    }
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
pub(crate) fn snapshot_files(folder: &std::path::Path) -> SnapshotFiles {
    SnapshotFiles {
        state: folder.join("state"),
        memory: folder.join("memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_marked_for_deletion_stay_until_the_last_reference_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, image) = (dir.path().join("snapshot"), dir.path().join("image"));
        std::fs::create_dir(&folder).unwrap();
        for file in [folder.join("state"), folder.join("memory"), image.clone()] {
            std::fs::write(file, "x").unwrap();
        }
        let first = Artefacts::new(
            "k".into(),
            "/runtime".into(),
            image.clone(),
            None,
            folder.clone(),
            Fingerprints::default(),
            StartsFrom::FunctionSnapshot,
        );
        let second = first.clone();
        first.delete_when_unused();
        drop(first);
        assert!(second.complete());
        drop(second);
        assert!(!folder.exists() && !image.exists());
    }
}
