//! Compiles the native modules of the Node.js images with the images' own Debian release.
//!
//! The host may run a newer release, whose compiler links against a newer C library than the image
//! has. So the builder unpacks a tree with the image's release and compiler, runs the build inside
//! that tree in mount and network namespaces of its own, and removes the tree. Both modules use
//! Node-API only, whose binary interface is the same in every version of Node.js.

use std::fs;
use std::path::{Path, PathBuf};

use super::npm::{self, Pin};
use super::{RuntimeError, node, packages};
use crate::cache::{Cache, Kind, remove_tree};
use crate::command::Tool;
use crate::digest::Key;
use crate::error::Result;
use crate::progress::Progress;
use crate::space;

/// The native module of Lambda's runtime client.
pub(super) const CLIENT: &str = "rapid-client.node";
/// Hearth's native module, which finds and registers random generators.
pub(super) const RESEED: &str = "reseed.node";

/// MiB that must be free for the compiler's tree and the build.
const BUILD_MIB: u64 = 768;
const SCRIPT: &str = include_str!("../../node/build-addons.sh");
const RESEED_SOURCE: &str = include_str!("../../node/reseed.c");
const COMPILER: &[&str] = &[
    "autoconf",
    "automake",
    "bash",
    "coreutils",
    "findutils",
    "g++",
    "gawk",
    "grep",
    "gzip",
    "libtool",
    "make",
    "mawk",
    "perl",
    "sed",
    "tar",
];
/// The major version whose headers are used: the oldest Node.js that has an image.
const HEADERS: &str = "20";

/// Returns the folder with the modules, from the cache or newly built.
pub(super) fn obtain(cache: &Cache, progress: &dyn Progress) -> Result<PathBuf> {
    let key = key();
    let lock = cache.lock(Kind::Addons, &key)?;
    if let Some(folder) = cache.find(Kind::Addons, &key) {
        return Ok(folder);
    }
    space::require(cache.root(), BUILD_MIB)?;
    let stage = cache.stage(Kind::Addons, &key, &lock)?;
    let root = stage.path().join("root");
    packages::unpack(COMPILER, "native modules", stage.path(), &root, progress)?;
    let build = root.join("build");
    for (name, major) in [
        (node::CLIENT_PACKAGE, node::CLIENT_MAJOR),
        ("node-addon-api", "6"),
        (node::BINARY_PACKAGE, HEADERS),
    ] {
        let pin = node::pin(name, major);
        // build-addons.sh expects the headers in the folder `node`.
        let into = if name == node::BINARY_PACKAGE {
            "node"
        } else {
            name
        };
        npm::unpack(pin, stage.path(), &build.join(into), progress)?;
    }
    for (name, text) in [("build-addons.sh", SCRIPT), ("reseed.c", RESEED_SOURCE)] {
        let path = build.join(name);
        fs::write(&path, text).map_err(RuntimeError::io("write", &path))?;
    }
    enter(&root)
        .arg("/build/build-addons.sh")
        .run("native modules: compiling", progress)
        .map_err(RuntimeError::from)?;
    for name in [CLIENT, RESEED] {
        let (from, to) = (build.join(name), stage.path().join(name));
        fs::rename(&from, &to).map_err(RuntimeError::io("move", &from))?;
    }
    remove_tree(&root).map_err(RuntimeError::io("remove", &root))?;
    stage.publish()
}

/// The cache key: a hash over everything that the modules are made of.
pub(super) fn key() -> String {
    let pinned = |pin: Pin<'_>| format!("{pin:?}");
    Key::new("addons")
        .with_code("recipe", include_str!("addons.rs"))
        .with("suite", packages::SUITE.as_bytes())
        .with("script", SCRIPT.as_bytes())
        .with("reseed", RESEED_SOURCE.as_bytes())
        .with(
            "client",
            pinned(node::pin(node::CLIENT_PACKAGE, node::CLIENT_MAJOR)).as_bytes(),
        )
        .with("api", pinned(node::pin("node-addon-api", "6")).as_bytes())
        .with(
            "headers",
            pinned(node::pin(node::BINARY_PACKAGE, HEADERS)).as_bytes(),
        )
        .finish()
}

/// Bash with `root` as its root directory, with `/dev/null` and without a network.
fn enter(root: &Path) -> Tool {
    let mut tool = Tool::new("unshare", "util-linux").args(["--mount", "--net"]);
    if !nix::unistd::geteuid().is_root() {
        tool = tool.arg("--map-root-user");
    }
    tool.args(["sh", "-c"])
        .arg(
            "touch \"$0/dev/null\" && mount --bind /dev/null \"$0/dev/null\" && \
             exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot \"$0\" /bin/bash \"$@\"",
        )
        .arg(root)
}
