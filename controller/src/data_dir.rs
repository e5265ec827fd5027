//! The data directory: its layout, its lock, and the removal of files that a killed controller has left.
//!
//! ```text
//! registry.db             functions and layers
//! registry.mark           which registry the files belong to, and how many changes it has had
//! events.db               accepted events that are not over
//! access-keys.json        access keys with their secrets; only its owner may read it
//! secrets.key             the key of environment variables in registry.db
//! packages/<sha256>       packages as they were uploaded
//! images/<key>.erofs      the function image of one deploy: its code
//! images/<key>.layers.erofs  the layers of that deploy, if it has any
//! snapshots/function/<key>/{state,memory,seal}
//! snapshots/runtime/<key>/{state,memory,seal}
//! logs/<function>/        log segments
//! lost+found/<time>/      files to which the registry had no reference when it was not known to be theirs
//! tmp/                    work in progress; emptied at every start
//! reserve                 space that a delete may use when the disk is full
//! hearthd.lock            locked while a controller runs
//! hearthd.addr            the address it listens on
//! ```

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, posix_fallocate};
use nix::sys::statvfs::statvfs;

use crate::hex::hex;

/// Maximum time to wait for a lock whose owner has ended. If a controller is killed while it starts a
/// sandbox, the child process inherits its open files, including the lock, until it has called `exec`.
const INHERITED: Duration = Duration::from_secs(10);

/// The name of the reserve, and its size in bytes: enough to delete functions from the registry and events
/// from their queue.
pub(crate) const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 1 << 20;
/// The default floor of free space: this many bytes, or one in so many of the file system, if that is less.
const FLOOR_BYTES: u64 = 256 << 20;
const FLOOR_SHARE: u64 = 20;

/// There is less free space than the floor: deploys and events are refused, so that invocations, deletes
/// and their logs have the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "The file system of the data directory has {} MiB of free space, less than --min-free-mib ({} MiB). \
     Delete functions or versions, or make room otherwise", free >> 20, floor >> 20
)]
pub(crate) struct LowSpace {
    /// In bytes.
    free: u64,
    /// In bytes.
    floor: u64,
}

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
    /// Free space in bytes below which deploys and events are refused.
    floor: AtomicU64,
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
        let (_, size) = space(&root).unwrap_or((0, u64::MAX));
        let this = Self {
            root,
            floor: AtomicU64::new(FLOOR_BYTES.min(size / FLOOR_SHARE)),
            _lock: lock,
        };
        if this.free().is_some_and(|free| free < RESERVE_BYTES) {
            this.release_reserve();
        }
        for folder in [
            this.packages(),
            this.images(),
            this.snapshots().join("function"),
            this.runtime_snapshots(),
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
        this.hold_reserve();
        Ok(this)
    }

    /// The free space of its file system, in bytes; `None` if it can't be read.
    pub(crate) fn free(&self) -> Option<u64> {
        space(&self.root).map(|(free, _)| free)
    }

    /// Sets the floor of free space, in bytes.
    pub(crate) fn set_floor(&self, bytes: u64) {
        self.floor.store(bytes, Ordering::Relaxed);
    }

    /// The floor of free space, in bytes.
    pub(crate) fn floor(&self) -> u64 {
        self.floor.load(Ordering::Relaxed)
    }

    /// Whether there is less free space than the floor.
    pub(crate) fn low_space(&self) -> Option<LowSpace> {
        let (free, floor) = (self.free()?, self.floor());
        (free < floor).then_some(LowSpace { free, floor })
    }

    /// Reserves space for deletes on a full disk, unless the disk is nearly full already.
    pub(crate) fn hold_reserve(&self) {
        let path = self.root.join(RESERVE);
        if path.exists() || self.free().is_none_or(|free| free < 4 * RESERVE_BYTES) {
            return;
        }
        let size = i64::try_from(RESERVE_BYTES).expect("it is small");
        let held = File::create(&path).and_then(|file| Ok(posix_fallocate(&file, 0, size)?));
        if let Err(error) = held {
            tracing::debug!(%error, "the controller could not reserve space for deletes");
            self.release_reserve();
        }
    }

    fn release_reserve(&self) {
        if let Err(error) = fs::remove_file(self.root.join(RESERVE)) {
            tracing::debug!(%error, "the controller could not release its reserve");
        }
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

    pub(crate) fn runtime_snapshots(&self) -> PathBuf {
        self.snapshots().join("runtime")
    }

    pub(crate) fn runtime_snapshot(&self, key: &str) -> PathBuf {
        self.runtime_snapshots().join(key)
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

    /// Writes the address file, completely or not at all. Without it the controller serves as well: on a
    /// full disk it must start, so that functions can be deleted.
    pub(crate) fn write_address(&self, address: &str) {
        let path = self.address_file();
        let beside = self.tmp().join("hearthd.addr");
        let written = fs::write(&beside, format!("{address}\n"));
        if let Err(error) = written.and_then(|()| fs::rename(&beside, &path)) {
            tracing::warn!(path = %path.display(), %error, "the controller could not write its address");
            // That of an earlier process would be wrong.
            self.remove_address();
        }
    }

    pub(crate) fn remove_address(&self) {
        if let Err(error) = fs::remove_file(self.address_file()) {
            tracing::debug!(%error, "the controller could not remove its address file");
        }
    }

    fn address_file(&self) -> PathBuf {
        self.root.join("hearthd.addr")
    }

    /// Removes images, snapshots, packages and logs to which the registry has no reference, or does with
    /// them what `unreferenced` says. Must be called before the first deploy.
    pub(crate) fn sweep(
        &self,
        unreferenced: Unreferenced,
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
        if unreferenced == Unreferenced::Keep {
            return Ok(());
        }
        let lost = lost_now(&self.root);
        for (folder, wanted) in folders {
            for entry in fs::read_dir(&folder).map_err(DataDirError::io("list", &folder))? {
                let entry = entry.map_err(DataDirError::io("list", &folder))?;
                if entry.file_name().to_str().is_some_and(wanted) {
                    continue;
                }
                let path = entry.path();
                if unreferenced == Unreferenced::Move {
                    move_below(&path, &self.root, &lost);
                    continue;
                }
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

/// What happens to files to which the registry has no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreferenced {
    /// They are left over from interrupted changes.
    Delete,
    /// They may belong to functions that the registry has lost: they are moved to `lost+found`.
    Move,
    /// They may belong to records that can't be read.
    Keep,
}

/// Moves files of the data directory into a folder of `lost+found` that is named by the time.
pub(crate) fn set_aside(files: &[PathBuf]) {
    let root = files.first().and_then(|file| file.parent());
    let root = root.expect("they are in the data directory");
    let lost = lost_now(root);
    for file in files.iter().filter(|file| file.exists()) {
        move_below(file, root, &lost);
    }
}

/// Moves a file or a folder below `root` to the same place below `lost`. If that fails, it stays where it
/// is.
fn move_below(path: &Path, root: &Path, lost: &Path) {
    let to = lost.join(path.strip_prefix(root).unwrap_or(path));
    let folder = to.parent().expect("it is below another folder");
    match private(folder).and_then(|()| fs::rename(path, &to)) {
        Ok(()) => tracing::warn!(
            path = %path.display(),
            to = %to.display(),
            "the controller has set a file aside"
        ),
        Err(error) => tracing::warn!(
            path = %path.display(),
            %error,
            "the controller could not set a file aside"
        ),
    }
}

/// The folder for what is set aside now.
fn lost_now(root: &Path) -> PathBuf {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    let now = time::OffsetDateTime::now_utc()
        .format(FORMAT)
        .expect("every time has these parts");
    root.join("lost+found").join(now)
}

/// The free space and the size of a path's file system, in bytes; `None` if they can't be read.
fn space(path: &Path) -> Option<(u64, u64)> {
    let disk = statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
    Some((bytes(disk.blocks_available()), bytes(disk.blocks())))
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
            Ok(lock) => {
                // Written in place, in a fixed width: a full disk has no new block. The number only
                // explains errors.
                let owner = format!("{:<10}\n", std::process::id());
                if let Err(error) = lock.write_all_at(owner.as_bytes(), 0) {
                    tracing::warn!(%error, "the controller could not write its process id");
                }
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
        data.sweep(Unreferenced::Delete, &kept, &kept, &kept)
            .unwrap();
        assert!(data.image("kept").exists() && !data.image("left").exists());
        assert!(data.layers_image("kept").exists() && !data.layers_image("left").exists());
        assert!(data.function_snapshot("kept").exists());
        assert!(!data.function_snapshot("left").exists());
        assert!(!data.packages().join("left").exists());
        assert!(!data.tmp().join("half").exists());
    }

    #[test]
    fn files_of_a_registry_that_is_not_known_are_moved_and_those_of_a_damaged_one_stay() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        fs::write(data.packages().join("package"), "x").unwrap();
        fs::create_dir(data.logs().join("f")).unwrap();
        let none = HashSet::new();
        data.sweep(Unreferenced::Keep, &none, &none, &none).unwrap();
        assert!(data.packages().join("package").exists());
        data.sweep(Unreferenced::Move, &none, &none, &none).unwrap();
        assert!(!data.packages().join("package").exists());
        let lost = fs::read_dir(dir.path().join("lost+found")).unwrap();
        let times: Vec<_> = lost.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(times.len(), 1);
        assert_eq!(fs::read(times[0].join("packages/package")).unwrap(), b"x");
        assert!(times[0].join("logs/f").is_dir());
    }

    #[test]
    fn space_below_the_floor_is_low_and_a_reserve_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        data.set_floor(0);
        assert_eq!(data.low_space(), None);
        data.set_floor(u64::MAX);
        let low = data.low_space().unwrap().to_string();
        assert!(low.contains("--min-free-mib"), "{low}");
        let reserve = fs::metadata(dir.path().join(RESERVE)).unwrap();
        assert_eq!(reserve.len(), RESERVE_BYTES);
    }

    /// On a full disk the start failed because of it.
    #[test]
    fn an_address_that_can_not_be_written_is_not_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        data.write_address("127.0.0.1:1");
        fs::remove_dir(data.tmp()).unwrap();
        data.write_address("127.0.0.1:2");
        assert!(!data.address_file().exists());
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
