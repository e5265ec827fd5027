//! Runtime images: what a guest boots from.
//!
//! Built in two parts. The *tree* is expensive (packages are fetched and
//! unpacked, bytecode compiled) and changes with the recipe only. The *image* is
//! cheap: the tree with the agent as `/init`, through `mkfs.erofs`. So a new
//! agent costs a second, not a minute.

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

/// What an image needs at most while it is made.
const IMAGE_MIB: u64 = 384;
/// This part of the recipe: a change here makes other images.
const RECIPE: &[u8] = include_bytes!("runtime.rs");

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

/// An identifier that no image is built for.
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
    /// The name of the image and its file.
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

    /// The runtime's own identifier.
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

/// The mailbox's files, as they were compiled for images.
#[derive(Debug, Clone)]
pub struct MailboxFiles {
    /// `libhearth_mailbox.so`.
    pub library: PathBuf,
    /// `libhearth_mailbox_node.so`, Node.js's module.
    pub node_module: PathBuf,
}

/// Why a runtime image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The agent can't be the guest's first process.
    #[error("the agent {} {why}", path.display())]
    Agent {
        /// The file given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file of the tree.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The packages lack a file that the runtime needs.
    #[error("the packages brought no {}; has their layout changed?", path.display())]
    Absent {
        /// Which.
        path: PathBuf,
    },
    /// A package is not the one that was pinned.
    #[error(
        "the npm package {package} is not what was pinned: its integrity is {found}, expected \
         {pinned}"
    )]
    Integrity {
        /// Name and version.
        package: String,
        /// What it should have been.
        pinned: String,
        /// What was fetched.
        found: String,
    },
    /// A program that the build runs.
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

/// Where the mailbox's library is in every image.
const MAILBOX_LIBRARY: &str = "var/runtime/lib/libhearth_mailbox.so";
/// And the module of Node.js's.
const MAILBOX_MODULE: &str = "var/runtime/mailbox.node";

/// Builds the image of `runtime` with `agent` as `/init` and the library `mailbox`, or finds it.
///
/// # Errors
/// A tool or package is missing, the disk is full, or the agent is not a static
/// x86-64 program. Nothing half-made is left.
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
        .with("recipe", RECIPE)
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
        let folder = place.parent().expect("it is in a folder");
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
    Ok(made.expect("it was published under the lock that is still held"))
}

fn digest_of(bytes: &[u8]) -> String {
    digest::of_reader(bytes).expect("memory reads")
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
