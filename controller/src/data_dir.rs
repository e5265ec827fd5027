//! The data directory: its layout, its lock, and the removal of files that a killed controller has left.
//!
//! ```text
//! registry.db             functions and layers
//! events.db               accepted events that are not over
//! access-keys.json        access keys with their secrets; only its owner may read it
//! secrets.key             the key of environment variables in registry.db
//! packages/<sha256>       packages as they were uploaded
//! images/<key>.erofs      the function image of one deploy: its code
//! images/<key>.layers.erofs  the layers of that deploy, if it has any
//! snapshots/function/<key>/{state,memory,seal}
//! snapshots/runtime/<key>/{state,memory,seal}
//! logs/<function>/        log segments
//! tmp/                    work in progress; emptied at every start
//! hearthd.lock            locked while a controller runs
//! hearthd.addr            the address it listens on
//! ```

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::hex::hex;

/// Maximum time to wait for a lock whose owner has ended. If a controller is killed while it starts a
/// sandbox, the child process inherits its open files, including the lock, until it has called `exec`.
const INHERITED: Duration = Duration::from_secs(10);

/// Why the data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// An operation on a file or folder has failed.
    #[error("data directory: can't {action} {}: {source}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another controller uses it.
    #[error("data directory {} is in use by another controller (process {owner}): end that one, or name another directory with --data-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process id in the lock file.
        owner: String,
    },
}

impl DataDirError {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }
}

/// A data directory that this process has locked.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    _lock: Flock<File>,
}

impl DataDir {
    /// Opens the directory, or creates it, so that only this user can read it, and locks it.
    pub(crate) fn open(root: &Path) -> Result<Self, DataDirError> {
        let io = DataDirError::io;
        private(root).map_err(io("create", root))?;
        let root = root.canonicalize().map_err(io("find", root))?;
        fs::set_permissions(&root, Permissions::from_mode(0o700)).map_err(io("close", &root))?;
        let lock = lock(&root)?;
        let this = Self { root, _lock: lock };
        for folder in [
            this.packages(),
            this.images(),
            this.snapshots().join("function"),
            this.snapshots().join("runtime"),
            this.logs(),
        ] {
            private(&folder).map_err(io("create", &folder))?;
        }
        let tmp = this.tmp();
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io("empty", &tmp)(error));
            }
            _ => {}
        }
        private(&tmp).map_err(io("create", &tmp))?;
        Ok(this)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn registry(&self) -> PathBuf {
        self.root.join("registry.db")
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.root.join("events.db")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.root.join("secrets.key")
    }

    pub(crate) fn packages(&self) -> PathBuf {
        self.root.join("packages")
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn image(&self, key: &str) -> PathBuf {
        self.images().join(format!("{key}.erofs"))
    }

    pub(crate) fn layers_image(&self, key: &str) -> PathBuf {
        self.images().join(format!("{key}.layers.erofs"))
    }

    pub(crate) fn function_snapshot(&self, key: &str) -> PathBuf {
        self.snapshots().join("function").join(key)
    }

    pub(crate) fn runtime_snapshot(&self, key: &str) -> PathBuf {
        self.snapshots().join("runtime").join(key)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Eight digits for the names of things outside of the directory that belong to it.
    pub(crate) fn tag(&self) -> String {
        use sha2::{Digest, Sha256};
        hex(&Sha256::digest(self.root.as_os_str().as_encoded_bytes())[..4])
    }

    /// Writes the address file, completely or not at all.
    pub(crate) fn write_address(&self, address: &str) -> Result<(), DataDirError> {
        let path = self.address_file();
        let beside = self.tmp().join("hearthd.addr");
        fs::write(&beside, format!("{address}\n"))
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(DataDirError::io("write", &path))
    }

    pub(crate) fn remove_address(&self) {
        if let Err(error) = fs::remove_file(self.address_file()) {
            tracing::debug!(%error, "the controller could not remove its address file");
        }
    }

    fn address_file(&self) -> PathBuf {
        self.root.join("hearthd.addr")
    }

    /// Removes images, snapshots, packages and logs to which the registry has no reference. Must be called
    /// before the first deploy.
    pub(crate) fn sweep(
        &self,
        keys: &HashSet<&str>,
        packages: &HashSet<&str>,
        functions: &HashSet<&str>,
    ) -> Result<(), DataDirError> {
        let image_key = |name: &str| {
            let key = name.strip_suffix(".erofs")?;
            Some(key.strip_suffix(".layers").unwrap_or(key).to_owned())
        };
        type Wanted<'a> = &'a dyn Fn(&str) -> bool;
        let folders: [(PathBuf, Wanted<'_>); 4] = [
            (self.images(), &|name| {
                image_key(name).is_some_and(|key| keys.contains(&*key))
            }),
            (self.snapshots().join("function"), &|name| {
                keys.contains(name)
            }),
            (self.packages(), &|name| packages.contains(name)),
            (self.logs(), &|name| functions.contains(name)),
        ];
        for (folder, wanted) in folders {
            for entry in fs::read_dir(&folder).map_err(DataDirError::io("list", &folder))? {
                let entry = entry.map_err(DataDirError::io("list", &folder))?;
                if entry.file_name().to_str().is_some_and(wanted) {
                    continue;
                }
                let path = entry.path();
                tracing::info!(
                    path = %path.display(),
                    "the controller removes a file to which the registry has no reference"
                );
                remove(&path).map_err(DataDirError::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// Removes a file or a folder.
fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn lock(root: &Path) -> Result<Flock<File>, DataDirError> {
    let path = root.join("hearthd.lock");
    let deadline = Instant::now() + INHERITED;
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(DataDirError::io("open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0)
                    .and_then(|()| writeln!(lock, "{}", std::process::id()))
                    .map_err(DataDirError::io("write", &path))?;
                return Ok(lock);
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let owner = fs::read_to_string(&path).unwrap_or_default();
                let owner = owner.trim();
                let ended = !owner.is_empty() && !Path::new("/proc").join(owner).exists();
                if !ended || Instant::now() >= deadline {
                    return Err(DataDirError::InUse {
                        path: root.into(),
                        owner: owner.into(),
                    });
                }
                thread::sleep(Duration::from_millis(10));
            }
            Err((_, errno)) => return Err(DataDirError::io("lock", &path)(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_second_controller_is_refused_with_the_directory_and_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_start_waits_for_a_lock_that_the_child_of_a_killed_controller_holds() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        let path = dir.path().join("hearthd.lock");
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        fs::write(&path, ended.id().to_string()).unwrap();
        let mut child = Command::new("flock")
            .arg(&path)
            .args(["sh", "-c", "echo held; sleep 0.3"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut held = [0; 5];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut held)
            .unwrap();
        DataDir::open(dir.path()).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn temporary_and_unreferenced_files_are_removed_at_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        for key in ["kept", "left"] {
            fs::write(data.image(key), "x").unwrap();
            fs::write(data.layers_image(key), "x").unwrap();
            fs::create_dir(data.function_snapshot(key)).unwrap();
            fs::write(data.packages().join(key), "x").unwrap();
        }
        fs::write(data.tmp().join("half"), "x").unwrap();
        drop(data);
        let data = DataDir::open(dir.path()).unwrap();
        let kept = HashSet::from(["kept"]);
        data.sweep(&kept, &kept, &kept).unwrap();
        assert!(data.image("kept").exists() && !data.image("left").exists());
        assert!(data.layers_image("kept").exists() && !data.layers_image("left").exists());
        assert!(data.function_snapshot("kept").exists());
        assert!(!data.function_snapshot("left").exists());
        assert!(!data.packages().join("left").exists());
        assert!(!data.tmp().join("half").exists());
    }

    #[test]
    fn only_the_owner_may_read_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        DataDir::open(&root).unwrap();
        assert_eq!(
            fs::metadata(&root).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
}
