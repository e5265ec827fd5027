//! Fetches Debian packages and unpacks them, without running any of their
//! scripts: seconds instead of minutes, and no privilege needed.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::{Runtime, RuntimeError, apt};
use crate::command::Tool;
use crate::progress::Progress;

/// The release that images are made from, on whatever host.
pub(super) const SUITE: &str = "bookworm";

/// What every function may rely on, about as much as Lambda's own base image:
/// a shell and its tools, curl, C and C++ libraries, certificates, time zones.
const BASE: &[&str] = &[
    "bash",
    "busybox-static",
    "ca-certificates",
    "coreutils",
    "curl",
    "findutils",
    "gawk",
    "grep",
    "libc-bin",
    "libc6",
    "libgcc-s1",
    "libssl3",
    "libstdc++6",
    "sed",
    "tzdata",
    "zlib1g",
];

const PYTHON: &[&str] = &["libsqlite3-0", "python3.11"];

/// The packages that `runtime` is made of, less what they depend on.
pub(super) fn wanted(runtime: Runtime) -> Vec<&'static str> {
    let own: &[&str] = match runtime {
        Runtime::Python311 => PYTHON,
        // Node.js itself comes from npm.
        Runtime::Node20 | Runtime::Node22 | Runtime::Provided => &[],
    };
    [BASE, own].concat()
}

/// Unpacks the packages `wanted` into `root`, with `work` for what comes in between; `label` says
/// what they are for.
pub(super) fn unpack(
    wanted: &[&str],
    label: &str,
    work: &Path,
    root: &Path,
    progress: &dyn Progress,
) -> Result<(), RuntimeError> {
    let archive = work.join("packages.tar");
    let sources = work.join("sources.list");
    // Scripts are not run, so nothing needs root; where unprivileged user
    // namespaces are off, mmdebstrap says so.
    let mode = if nix::unistd::geteuid().is_root() {
        "root"
    } else {
        "unshare"
    };
    let mut tool = Tool::new("mmdebstrap", "mmdebstrap")
        .args(["--quiet", "--variant=extract"])
        .arg(format!("--mode={mode}"))
        .arg(format!("--include={}", wanted.join(",")))
        .args(
            apt::options()?
                .iter()
                .map(|option| format!("--aptopt={option}")),
        )
        .advice(
            "if a package is missing or can't be fetched, check /etc/apt and the network \
             (apt-get update); it said:",
        );
    let hosts = apt::sources(SUITE)?;
    tool = tool.arg(SUITE).arg(&archive);
    if !hosts.is_empty() {
        fs::write(&sources, hosts).map_err(RuntimeError::io("write", &sources))?;
        tool = tool.arg(&sources);
    }
    tool.run(&format!("{label}: fetching packages"), progress)?;

    DirBuilder::new()
        .mode(0o755)
        .create(root)
        .map_err(RuntimeError::io("create", root))?;
    Tool::new("tar", "tar")
        .args([
            "--extract",
            "--no-same-owner",
            "--exclude=./dev/*",
            "--file",
        ])
        .arg(&archive)
        .arg("--directory")
        .arg(root)
        .advice("is the disk full? It said:")
        .run(&format!("{label}: unpacking packages"), progress)?;
    for done in [&archive, &sources] {
        match fs::remove_file(done) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RuntimeError::io("remove", done)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
