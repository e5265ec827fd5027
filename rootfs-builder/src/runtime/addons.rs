//! The native modules of the Node.js images, compiled by the images' own release.
//!
//! The host's compiler may be of a newer release, and what it makes then asks for a newer C
//! library than the image has. So a tree with the release's compiler is unpacked, entered in a
//! mount namespace of its own, and thrown away. Both modules keep to Node-API, whose binary
//! interface is the same in every version of Node.js.

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

/// The runtime client's module.
pub(super) const CLIENT: &str = "rapid-client.node";
/// Hearth's own.
pub(super) const RESEED: &str = "reseed.node";

/// What the compiler's tree and the build in it need at most.
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
/// Headers of the oldest Node.js there is an image for.
const HEADERS: &str = "20";

/// A folder with the modules, from the cache or built.
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
        // The script knows the headers by a shorter name.
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

/// Names what the modules are made of.
pub(super) fn key() -> String {
    let pinned = |pin: Pin<'_>| format!("{pin:?}");
    Key::new("addons")
        .with("recipe", include_bytes!("addons.rs"))
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

/// Bash inside the tree, where there is a `/dev/null` and no network.
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
