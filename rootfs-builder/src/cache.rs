//! The artefact cache: finished files, each under a hash of everything that it was made from.
//!
//! ```text
//! <root>/kernel/<key>/vmlinux            and vmlinux.sha256
//! <root>/images/<key>/<runtime>.erofs    and <runtime>.erofs.sha256
//! <root>/trees/<key>/…                   unpacked packages, see `runtime`
//! <root>/<kind>/current-<name>           the key of the newest one
//! <root>/locks/<kind>-<key>              held while a key is built
//! ```
//!
//! A folder `<key>` appears by a rename after its files have been flushed to disk, so an existing folder
//! is always complete. If two builders build the same key, the second waits for the first one's lock and
//! then finds its result.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::digest;
use crate::error::Result;
use crate::runtime::Runtime;

/// Why the cache could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// `HEARTH_CACHE` and `HOME` are both unset.
    #[error("no folder for the cache: set HEARTH_CACHE or HOME")]
    NoRoot,
    /// A file or folder of the cache could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl CacheError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artefact {
    /// Path of the file.
    pub path: PathBuf,
    /// SHA-256 of its content, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// The folder of the artefacts.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// The kinds of artefacts. Each has a folder in the cache.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Guest kernels.
    Kernel,
    /// Runtime images.
    Images,
    /// Unpacked packages: the expensive part of a runtime image.
    Trees,
    /// Native modules compiled for runtime images.
    Addons,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Images => "images",
            Self::Trees => "trees",
            Self::Addons => "addons",
        }
    }
}

impl Cache {
    /// Opens the cache in `root`. Creates the folder if it is missing.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).map_err(CacheError::io("create", root))?;
        let root = root.canonicalize().map_err(CacheError::io("find", root))?;
        Ok(Self { root })
    }

    /// `$HEARTH_CACHE`, or `~/.cache/hearth`.
    ///
    /// # Errors
    /// Neither that variable nor `HOME` is set.
    pub fn default_root() -> Result<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        match (set("HEARTH_CACHE"), set("HOME")) {
            (Some(cache), _) => Ok(PathBuf::from(cache)),
            (None, Some(home)) => Ok(Path::new(&home).join(".cache/hearth")),
            (None, None) => Err(CacheError::NoRoot.into()),
        }
    }

    /// The cache's root folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The finished folder of `key`, if it exists.
    pub(crate) fn find(&self, kind: Kind, key: &str) -> Option<PathBuf> {
        let path = self.root.join(kind.folder()).join(key);
        path.is_dir().then_some(path)
    }

    /// The finished file `name` of `key`, if it exists.
    pub(crate) fn artefact(&self, kind: Kind, key: &str, name: &str) -> Option<Artefact> {
        let path = self.find(kind, key)?.join(name);
        let sha256 = fs::read_to_string(digest_path(&path))
            .ok()?
            .trim()
            .to_owned();
        (path.is_file() && sha256.len() == 64).then_some(Artefact { path, sha256 })
    }

    /// The newest artefact with this name.
    fn current(&self, kind: Kind, name: &str) -> Result<Option<Artefact>> {
        let pointer = self.pointer(kind, name);
        let key = match fs::read_to_string(&pointer) {
            Ok(key) => key,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CacheError::io("read", &pointer)(error).into()),
        };
        let key = key.trim();
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        Ok(self.artefact(kind, key, name))
    }

    /// Makes `key`'s artefact the newest one with this name.
    pub(crate) fn set_current(&self, kind: Kind, name: &str, key: &str) -> Result<()> {
        let pointer = self.pointer(kind, name);
        if fs::read_to_string(&pointer).is_ok_and(|now| now.trim() == key) {
            return Ok(());
        }
        let beside = pointer.with_extension(format!("new-{}", std::process::id()));
        let write = || -> io::Result<()> {
            fs::write(&beside, format!("{key}\n"))?;
            File::open(&beside)?.sync_all()?;
            fs::rename(&beside, &pointer)
        };
        write().map_err(CacheError::io("write", &pointer))?;
        Ok(())
    }

    fn pointer(&self, kind: Kind, name: &str) -> PathBuf {
        self.root
            .join(kind.folder())
            .join(format!("current-{name}"))
    }

    /// Takes the lock of `key`. Waits while another builder holds it.
    pub(crate) fn lock(&self, kind: Kind, key: &str) -> Result<Lock> {
        let folder = self.root.join("locks");
        fs::create_dir_all(&folder).map_err(CacheError::io("create", &folder))?;
        let path = folder.join(format!("{}-{key}", kind.folder()));
        let file = File::create(&path).map_err(CacheError::io("open", &path))?;
        file.lock().map_err(CacheError::io("lock", &path))?;
        Ok(Lock { _file: file })
    }

    /// An empty folder on the cache's file system, in which `key` is built.
    ///
    /// The lock proves that no other builder is building this key, so leftovers of a killed builder
    /// are removed here.
    pub(crate) fn stage(&self, kind: Kind, key: &str, _lock: &Lock) -> Result<Stage> {
        let folder = self.root.join(kind.folder());
        fs::create_dir_all(&folder).map_err(CacheError::io("create", &folder))?;
        let path = folder.join(format!(".building-{key}"));
        remove_tree(&path).map_err(CacheError::io("remove", &path))?;
        fs::create_dir(&path).map_err(CacheError::io("create", &path))?;
        Ok(Stage {
            path,
            target: folder.join(key),
            folder,
        })
    }
}

/// The lock on a key, held while it is built.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// A folder in which a key is built. It is removed when it is dropped without [`Stage::publish`].
#[derive(Debug)]
pub(crate) struct Stage {
    path: PathBuf,
    target: PathBuf,
    folder: PathBuf,
}

impl Stage {
    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the hash of the finished file `name` beside it.
    pub(crate) fn seal(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        let sha256 = digest::of_file(&path).map_err(CacheError::io("read", &path))?;
        let beside = digest_path(&path);
        fs::write(&beside, format!("{sha256}\n")).map_err(CacheError::io("write", &beside))?;
        for path in [&path, &beside] {
            File::open(path)
                .and_then(|file| file.sync_all())
                .map_err(CacheError::io("write", path))?;
        }
        Ok(())
    }

    /// Moves the folder to its final place.
    pub(crate) fn publish(self) -> Result<PathBuf> {
        let put = || -> io::Result<()> {
            // Only an incomplete folder can exist here: a complete one would have been used.
            remove_tree(&self.target)?;
            File::open(&self.path)?.sync_all()?;
            fs::rename(&self.path, &self.target)?;
            File::open(&self.folder)?.sync_all()
        };
        put().map_err(CacheError::io("publish", &self.target))?;
        Ok(self.target.clone())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // An error is ignored here. The next builder of this key tries again and reports it.
        let _ = remove_tree(&self.path);
    }
}

/// Removes a folder and its content, even if folders in it lack write permission.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_folders(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

/// Gives the owner access to all folders below `path`.
fn open_folders(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in walkdir::WalkDir::new(path)
        .into_iter()
        .filter_map(std::result::Result::ok)
    {
        if entry.file_type().is_dir() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

fn digest_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

/// The newest guest kernel in the cache; never builds one.
///
/// # Errors
/// The cache can't be read.
pub fn cached_kernel(cache: &Cache) -> Result<Option<Artefact>> {
    cache.current(Kind::Kernel, crate::kernel::FILE)
}

/// The newest image of `runtime` in the cache; never builds one.
///
/// # Errors
/// The cache can't be read.
pub fn cached_runtime(cache: &Cache, runtime: Runtime) -> Result<Option<Artefact>> {
    cache.current(Kind::Images, runtime.image_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(cache: &Cache, key: &str, content: &str) {
        let lock = cache.lock(Kind::Kernel, key).unwrap();
        let stage = cache.stage(Kind::Kernel, key, &lock).unwrap();
        fs::write(stage.path().join("vmlinux"), content).unwrap();
        stage.seal("vmlinux").unwrap();
        stage.publish().unwrap();
        cache.set_current(Kind::Kernel, "vmlinux", key).unwrap();
    }

    #[test]
    fn nothing_is_found_in_an_empty_cache() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("deep/er")).unwrap();
        assert_eq!(cached_kernel(&cache).unwrap(), None);
        assert_eq!(cached_runtime(&cache, Runtime::Python311).unwrap(), None);
    }

    #[test]
    fn the_newest_published_artefact_is_found_with_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        build(&cache, "aa", "old");
        build(&cache, "bb", "abc");
        let found = cached_kernel(&cache).unwrap().unwrap();
        assert_eq!(fs::read_to_string(&found.path).unwrap(), "abc");
        assert_eq!(
            found.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn an_abandoned_build_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let lock = cache.lock(Kind::Kernel, "cc").unwrap();
        let stage = cache.stage(Kind::Kernel, "cc", &lock).unwrap();
        fs::write(stage.path().join("vmlinux"), "half").unwrap();
        drop(stage);
        assert!(cache.find(Kind::Kernel, "cc").is_none());
        let left = fs::read_dir(dir.path().join("kernel")).unwrap().count();
        assert_eq!(left, 0);
    }

    #[test]
    fn what_a_killed_builder_left_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let lock = cache.lock(Kind::Kernel, "dd").unwrap();
        let stage = cache.stage(Kind::Kernel, "dd", &lock).unwrap();
        fs::write(stage.path().join("old"), "half").unwrap();
        std::mem::forget(stage);
        let stage = cache.stage(Kind::Kernel, "dd", &lock).unwrap();
        assert!(!stage.path().join("old").exists());
    }

    #[test]
    fn a_pointer_to_a_removed_or_damaged_artefact_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        build(&cache, "ee", "x");
        fs::remove_file(dir.path().join("kernel/ee/vmlinux")).unwrap();
        assert_eq!(cached_kernel(&cache).unwrap(), None);
        fs::write(dir.path().join("kernel/current-vmlinux"), "../../etc").unwrap();
        assert_eq!(cached_kernel(&cache).unwrap(), None);
    }

    #[test]
    fn two_builders_of_one_key_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let held = cache.lock(Kind::Images, "ff").unwrap();
        let path = dir.path().join("locks/images-ff");
        assert!(File::open(&path).unwrap().try_lock().is_err());
        drop(held);
        File::open(&path).unwrap().try_lock().unwrap();
    }
}
