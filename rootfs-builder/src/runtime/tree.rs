//! Builds the tree of a runtime image: all its files without the agent. The cache keeps it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::{fs, io};

use walkdir::WalkDir;

use super::{Runtime, RuntimeError, addons, node, node_sdk, packages, python, shape};
use crate::cache::{Cache, CacheError, Kind};
use crate::digest::{self, Key};
use crate::error::Result;
use crate::progress::Progress;
use crate::space;

/// MiB that must be free to build a tree.
const TREE_MIB: u64 = 768;
/// These files are part of the cache key, because a change to their code can change the tree.
const RECIPE: &[&str] = &[
    include_str!("accounts.rs"),
    include_str!("node.rs"),
    include_str!("node_sdk.rs"),
    include_str!("packages.rs"),
    include_str!("python.rs"),
    include_str!("shape.rs"),
    include_str!("tree.rs"),
];

/// A complete tree in the cache.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    /// A hash over the paths, modes and contents of all files.
    pub(super) identity: String,
}

/// Returns the tree of `runtime` from the cache, or builds it.
pub(super) fn obtain(cache: &Cache, runtime: Runtime, progress: &dyn Progress) -> Result<Tree> {
    let mut key = Key::new("tree")
        .with("runtime", runtime.name().as_bytes())
        .with("suite", packages::SUITE.as_bytes());
    for part in RECIPE {
        key = key.with_code("recipe", part);
    }
    key = match runtime {
        Runtime::Python311 => key
            .with("requirements", python::REQUIREMENTS.as_bytes())
            .with("bootstrap", python::BOOTSTRAP.as_bytes())
            .with("transport", python::TRANSPORT.as_bytes())
            .with("generators", python::GENERATORS.as_bytes())
            .with("resident", python::RESIDENT.as_bytes())
            .with("probe", python::PROBE.as_bytes()),
        Runtime::Node20 | Runtime::Node22 => key
            .with("pins", node::PINS.as_bytes())
            .with("sdk", node_sdk::LOCK.as_bytes())
            .with("bootstrap", node::BOOTSTRAP.as_bytes())
            .with("launcher", node::LAUNCHER.as_bytes())
            .with("generators", node::GENERATORS.as_bytes())
            .with("addons", addons::key().as_bytes()),
        Runtime::Provided => key,
    };
    let key = key.finish();
    let lock = cache.lock(Kind::Trees, &key)?;
    if let Some(folder) = cache.find(Kind::Trees, &key) {
        return opened(&folder);
    }
    space::require(cache.root(), TREE_MIB)?;
    let stage = cache.stage(Kind::Trees, &key, &lock)?;
    let root = stage.path().join("root");
    packages::unpack(
        &packages::wanted(runtime),
        runtime.name(),
        stage.path(),
        &root,
        progress,
    )?;
    shape::shape(&root)?;
    let node = |major| -> Result<()> {
        let modules = addons::obtain(cache, progress)?;
        Ok(node::complete(
            major,
            &modules,
            &root,
            stage.path(),
            progress,
        )?)
    };
    match runtime {
        Runtime::Python311 => python::complete(&root, stage.path(), progress)?,
        Runtime::Node20 => node("20")?,
        Runtime::Node22 => node("22")?,
        Runtime::Provided => {}
    }
    shape::modes(&root)?;
    let identity = identity(&root).map_err(RuntimeError::io("read", &root))?;
    let file = stage.path().join("identity");
    fs::write(&file, format!("{identity}\n")).map_err(CacheError::io("write", &file))?;
    // syncfs(2) once, instead of fsync(2) for each of thousands of files.
    fs::File::open(stage.path())
        .map_err(CacheError::io("open", stage.path()))
        .and_then(|folder| {
            nix::unistd::syncfs(&folder)
                .map_err(|error| CacheError::io("write", stage.path())(error.into()))
        })?;
    opened(&stage.publish()?)
}

fn opened(folder: &Path) -> Result<Tree> {
    let file = folder.join("identity");
    let identity = fs::read_to_string(&file).map_err(CacheError::io("read", &file))?;
    Ok(Tree {
        root: folder.join("root"),
        identity: identity.trim().to_owned(),
    })
}

/// A hash over the paths, modes and contents of all files below `root`.
fn identity(root: &Path) -> io::Result<String> {
    let mut key = Key::new("files");
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry?;
        let path = entry.path();
        let name = path
            .strip_prefix(root)
            .expect("WalkDir returns paths below its root");
        key = key.with("path", name.as_os_str().as_encoded_bytes());
        let kind = entry.file_type();
        let content = if kind.is_symlink() {
            fs::read_link(path)?.into_os_string().into_encoded_bytes()
        } else if kind.is_file() {
            digest::of_file(path)?.into_bytes()
        } else {
            Vec::new()
        };
        let mode = entry.metadata()?.permissions().mode();
        key = key
            .with("mode", &mode.to_le_bytes())
            .with("content", &content);
    }
    Ok(key.finish())
}

/// Copies the tree `from` to `to`; files are hard links, so no content is copied.
pub(super) fn link(from: &Path, to: &Path) -> std::result::Result<(), RuntimeError> {
    for entry in WalkDir::new(from) {
        let entry = entry.map_err(|error| RuntimeError::io("read", from)(error.into()))?;
        let path = entry.path();
        let name = path
            .strip_prefix(from)
            .expect("WalkDir returns paths below its root");
        let target = if name.as_os_str().is_empty() {
            to.to_owned()
        } else {
            to.join(name)
        };
        let kind = entry.file_type();
        let made = if kind.is_dir() {
            fs::metadata(path).and_then(|metadata| {
                fs::create_dir(&target)?;
                fs::set_permissions(&target, metadata.permissions())
            })
        } else if kind.is_symlink() {
            fs::read_link(path).and_then(|link| symlink(link, &target))
        } else {
            fs::hard_link(path, &target)
        };
        made.map_err(RuntimeError::io("create", &target))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn small_tree(root: &Path) {
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "content").unwrap();
        symlink("b/file", root.join("a/link")).unwrap();
    }

    #[test]
    fn a_linked_tree_is_the_same_tree() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        small_tree(&from);
        link(&from, &to).unwrap();
        assert_eq!(identity(&from).unwrap(), identity(&to).unwrap());
    }

    #[test]
    fn content_mode_and_links_are_part_of_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        small_tree(dir.path());
        let file = dir.path().join("a/b/file");
        let first = identity(dir.path()).unwrap();
        fs::write(&file, "other").unwrap();
        let second = identity(dir.path()).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        let third = identity(dir.path()).unwrap();
        symlink("x", dir.path().join("new")).unwrap();
        let fourth = identity(dir.path()).unwrap();
        let mut all = vec![first, second, third, fourth];
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
    }
}
