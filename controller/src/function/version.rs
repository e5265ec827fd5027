//! A version of a function that invocations can run on, and the files that it starts from.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hearth_protocol::agent::Configure;

use super::{Code, FunctionConfig, FunctionName, Made, Sealed, SharedGenerators, VersionId};

/// A version of a function. Invocations, instances and the catalog share it; an instance never
/// serves another one than the one it was started from.
#[derive(Debug)]
pub(crate) struct Version {
    /// Unique in this process.
    pub(crate) serial: u64,
    pub(crate) name: FunctionName,
    pub(crate) id: VersionId,
    pub(crate) config: FunctionConfig,
    pub(crate) code: Code,
    pub(crate) revision_id: String,
    artefacts: Mutex<Option<Arc<Artefacts>>>,
    retired: AtomicBool,
    /// Held by whoever makes artefacts anew: once is enough. Inside: when that failed last, and why.
    pub(crate) rebuilding: tokio::sync::Mutex<Option<(Instant, String)>>,
}

impl Version {
    /// `artefacts` is `None` when they have to be made anew before the first start.
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

    /// Whether its runtime is told that it is restored.
    pub(crate) fn snap_starts(&self) -> bool {
        self.config.snap_starts(self.id)
    }

    pub(crate) fn artefacts(&self) -> Option<Arc<Artefacts>> {
        self.artefacts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_artefacts(&self, artefacts: Arc<Artefacts>) {
        *self
            .artefacts
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(artefacts);
    }

    /// Gives up artefacts that could not be used, unless others have taken their place already.
    pub(crate) fn discard_artefacts(&self, unusable: &Arc<Artefacts>) {
        let mut place = self
            .artefacts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if place.as_ref().is_some_and(|now| Arc::ptr_eq(now, unusable)) {
            unusable.doom();
            *place = None;
        }
    }

    /// Says that another version took this one's place: no instance of it stays idle, and its files
    /// go when the last who holds it lets go.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        if let Some(artefacts) = self.artefacts() {
            artefacts.doom();
        }
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

/// What a snapshot was made of, twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fingerprints {
    /// What its microVM was booted from: kernel, runtime image, memory, sandbox, kind of host. The
    /// snapshot's state file carries it, and the sandbox compares it.
    pub(crate) booted: String,
    /// That, and code and configuration. The registry carries it, and this controller compares it.
    pub(crate) deployed: String,
}

/// What an instance of a version is started from.
#[derive(Debug)]
pub(crate) enum StartsFrom {
    /// The snapshot that was taken after the function's init.
    FunctionSnapshot,
    /// The snapshot of the runtime; the function's init then runs in the instance.
    RuntimeSnapshot(Box<InstanceInit>),
}

/// How an instance is started whose function's init runs in it.
#[derive(Debug)]
pub(crate) struct InstanceInit {
    /// Folder of the runtime's snapshot. Every function of that runtime and memory size shares it: it
    /// stays when a version's files are removed.
    pub(crate) runtime_snapshot: PathBuf,
    /// The function, but for the log stream: each instance has its own.
    pub(crate) configure: Configure,
    /// Longest time for init.
    pub(crate) limit: Duration,
    /// Why there is no snapshot of after init.
    pub(crate) generators: SharedGenerators,
}

/// Image and snapshot of one deploy. Each deploy has its own, by names of its own (an image of the same
/// code may be the same file): nothing can be taken from under another. Files that are doomed disappear
/// with the last one who may still open them.
#[derive(Debug)]
pub(crate) struct Artefacts {
    /// Names them.
    pub(crate) key: String,
    /// The runtime's image: not doomed with the rest.
    pub(crate) runtime_image: PathBuf,
    /// The code.
    pub(crate) code_image: PathBuf,
    /// Its layers, if it has any.
    pub(crate) layers_image: Option<PathBuf>,
    /// Folder of the deploy's own files: its snapshot, if it has one, and the seal.
    pub(crate) folder: PathBuf,
    pub(crate) fingerprints: Fingerprints,
    pub(crate) starts_from: StartsFrom,
    sealed: OnceLock<Sealed>,
    doomed: AtomicBool,
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
            doomed: AtomicBool::new(false),
        })
    }

    /// What a restore needs of a snapshot, the function's own or its runtime's.
    pub(crate) fn snapshot(&self) -> SnapshotFiles {
        match &self.starts_from {
            StartsFrom::FunctionSnapshot => snapshot_files(&self.folder),
            StartsFrom::RuntimeSnapshot(init) => snapshot_files(&init.runtime_snapshot),
        }
    }

    /// What the registry keeps of them.
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

    /// What shows that no file has changed that a restore is given. A runtime's snapshot is among them:
    /// when that was made again, the version has to be made again too.
    pub(crate) fn sealed(&self) -> &Sealed {
        self.sealed.get_or_init(|| {
            let SnapshotFiles { state, memory } = self.snapshot();
            let mut files = vec![state, memory];
            files.extend(self.disks().into_iter().flatten());
            Sealed::new(&self.folder, files, self.fingerprints.deployed.clone())
        })
    }

    /// Whether the files are there.
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

    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }

    /// Takes `doom` back: for files that were not whole until now.
    pub(crate) fn keep(&self) {
        self.doomed.store(false, Ordering::Relaxed);
    }
}

impl Drop for Artefacts {
    fn drop(&mut self) {
        if !*self.doomed.get_mut() {
            return;
        }
        let images = std::iter::once(&self.code_image).chain(&self.layers_image);
        let images = images.map(std::fs::remove_file);
        let removed = std::iter::once(std::fs::remove_dir_all(&self.folder)).chain(images);
        for result in removed {
            match result {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(key = self.key, %error, "files of a former deploy not removed");
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
    fn doomed_files_stay_until_the_last_holder_lets_go() {
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
        first.doom();
        drop(first);
        assert!(second.complete());
        drop(second);
        assert!(!folder.exists() && !image.exists());
    }
}
