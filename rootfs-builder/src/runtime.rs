//! Builds the runtime images: the read-only root file systems that guests boot from.
//!
//! An image is built in two steps, and the cache keeps the result of each:
//! 1. The *tree* holds the image's files without the agent. It takes minutes: packages are fetched and
//! 2. The *image* is the tree with the agent as `/init`, written by `mkfs.erofs`. It takes a second, so

mod accounts;
mod addons;
mod agent;
mod apt;
mod node;
mod node_sdk;
mod npm;
mod packages;
mod python;
mod shape;
mod tree;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cache::{Artefact, Cache, CacheError, Kind};
use crate::command::CommandError;
use crate::digest::{self, Key};
use crate::error::Result;
use crate::progress::Progress;
use crate::{erofs, space};

/// MiB that must be free to make an image.
const IMAGE_MIB: u64 = 384;
/// This file is part of the images' cache key, because a change to its code can change an image.
const RECIPE: &str = include_str!("runtime.rs");

/// A runtime that an image exists for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// CPython 3.11 with Lambda's runtime client.
    Python311,
    /// Node.js 20 with Lambda's runtime client.
    Node20,
    /// Node.js 22 with Lambda's runtime client.
    Node22,
    /// The function brings its own `bootstrap`.
    Provided,
}

/// Hearth has no image for this identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no runtime {0:?}; there are python3.11, nodejs20.x, nodejs22.x and provided (also as \
     provided.al2023, provided.al2)"
)]
pub struct UnknownRuntime(pub String);

impl FromStr for Runtime {
    type Err = UnknownRuntime;

    /// Takes Lambda's identifiers.
    fn from_str(name: &str) -> std::result::Result<Self, UnknownRuntime> {
        match name {
            "python3.11" => Ok(Self::Python311),
            "nodejs20.x" => Ok(Self::Node20),
            "nodejs22.x" => Ok(Self::Node22),
            "provided" | "provided.al2023" | "provided.al2" => Ok(Self::Provided),
            other => Err(UnknownRuntime(other.to_owned())),
        }
    }
}

impl Runtime {
    /// The file name of the image.
    pub(crate) fn image_name(self) -> &'static str {
        match self {
            Self::Python311 => "python3.11.erofs",
            Self::Node20 => "nodejs20.x.erofs",
            Self::Node22 => "nodejs22.x.erofs",
            Self::Provided => "provided.erofs",
        }
    }

    fn is_node(self) -> bool {
        matches!(self, Self::Node20 | Self::Node22)
    }

    /// Lambda's identifier of the runtime, without variants such as `provided.al2`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python311 => "python3.11",
            Self::Node20 => "nodejs20.x",
            Self::Node22 => "nodejs22.x",
            Self::Provided => "provided",
        }
    }
}

/// The mailbox's shared libraries that go into the images.
#[derive(Debug, Clone)]
pub struct MailboxFiles {
    /// `libhearth_mailbox.so`.
    pub library: PathBuf,
    /// `libhearth_mailbox_node.so`, the native module of Node.js.
    pub node_module: PathBuf,
}

/// Why a runtime image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The guest kernel could not start the agent as its first process.
    #[error("the agent {} {why}", path.display())]
    Agent {
        /// The agent's file.
        path: PathBuf,
        /// The fault, as the end of a sentence.
        why: &'static str,
    },
    /// A file of the tree can't be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The packages do not contain a file that the runtime needs.
    #[error("the packages contain no {}; has their layout changed?", path.display())]
    Absent {
        /// The missing file.
        path: PathBuf,
    },
    /// A fetched package differs from the one that was pinned.
    #[error(
        "the npm package {package} is not what was pinned: its integrity is {found}, expected \
         {pinned}"
    )]
    Integrity {
        /// Name and version.
        package: String,
        /// The pinned integrity string.
        pinned: String,
        /// The integrity string of what was fetched.
        found: String,
    },
    /// A program of the build failed or is missing.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl RuntimeError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// The mailbox's library in every image; the agent preloads it into runtimes.
const MAILBOX_LIBRARY: &str = "var/runtime/lib/libhearth_mailbox.so";
/// The mailbox's native module in the Node.js images.
const MAILBOX_MODULE: &str = "var/runtime/mailbox.node";

/// Returns the folder with the tree of `runtime`, from the cache or newly built. [`build_runtime`] does
/// this too; a caller that has no agent yet can do it ahead.
///
/// # Errors
/// A tool or package is missing, or the disk is full. A failed build leaves nothing in the cache.
pub fn build_tree(cache: &Cache, runtime: Runtime, progress: &dyn Progress) -> Result<PathBuf> {
    Ok(tree::obtain(cache, runtime, progress)?.root)
}

/// Returns the image of `runtime` with `agent` as `/init` and the libraries `mailbox`, from the
/// cache or newly built.
///
/// # Errors
/// A tool or package is missing, the disk is full, or the agent is not a static x86-64 program. A
/// failed build leaves nothing in the cache.
pub fn build_runtime(
    cache: &Cache,
    runtime: Runtime,
    agent: &Path,
    mailbox: &MailboxFiles,
    progress: &dyn Progress,
) -> Result<Artefact> {
    let agent_bytes = agent::read(agent)?;
    let read = |path: &Path| fs::read(path).map_err(RuntimeError::io("read", path));
    let mut files = vec![(MAILBOX_LIBRARY, read(&mailbox.library)?)];
    if runtime.is_node() {
        files.push((MAILBOX_MODULE, read(&mailbox.node_module)?));
    }
    let tree = tree::obtain(cache, runtime, progress)?;
    let mut key = Key::new("image")
        .with_code("recipe", RECIPE)
        .with("tree", tree.identity.as_bytes())
        .with("agent", digest_of(&agent_bytes).as_bytes());
    for (name, bytes) in &files {
        key = key.with(name, digest_of(bytes).as_bytes());
    }
    let key = key.finish();
    let name = runtime.image_name();
    let lock = cache.lock(Kind::Images, &key)?;
    if let Some(artefact) = cache.artefact(Kind::Images, &key, name) {
        cache.set_current(Kind::Images, name, &key)?;
        return Ok(artefact);
    }
    space::require(cache.root(), IMAGE_MIB)?;
    let stage = cache.stage(Kind::Images, &key, &lock)?;
    let root = stage.path().join("root");
    tree::link(&tree.root, &root)?;
    let init = root.join("init");
    fs::write(&init, &agent_bytes).map_err(RuntimeError::io("write", &init))?;
    fs::set_permissions(&init, Permissions::from_mode(0o755))
        .map_err(RuntimeError::io("write", &init))?;
    for (name, bytes) in &files {
        let place = root.join(name);
        let folder = place.parent().expect("the path has a parent");
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&place, bytes))
            .map_err(RuntimeError::io("write", &place))?;
    }
    let step = format!("{}: image", runtime.name());
    erofs::make(&root, &stage.path().join(name), &step, progress)?;
    crate::cache::remove_tree(&root).map_err(CacheError::io("remove", &root))?;
    stage.seal(name)?;
    stage.publish()?;
    cache.set_current(Kind::Images, name, &key)?;
    let made = cache.artefact(Kind::Images, &key, name);
    Ok(made.expect("this process published it and still holds its lock"))
}

fn digest_of(bytes: &[u8]) -> String {
    digest::of_reader(bytes).expect("reading from memory can't fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lambdas_identifiers_name_the_images() {
        assert_eq!("python3.11".parse(), Ok(Runtime::Python311));
        for name in ["provided", "provided.al2023", "provided.al2"] {
            assert_eq!(name.parse(), Ok(Runtime::Provided));
        }
        assert_eq!("nodejs20.x".parse(), Ok(Runtime::Node20));
        assert_eq!("nodejs22.x".parse(), Ok(Runtime::Node22));
        let error = "nodejs18.x".parse::<Runtime>().unwrap_err().to_string();
        assert!(
            error.contains("nodejs18.x") && error.contains("python3.11"),
            "{error}"
        );
    }
}
