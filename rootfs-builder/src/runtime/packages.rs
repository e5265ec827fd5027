//! Fetches Debian packages and unpacks them without running their scripts. That takes seconds
//! instead of minutes and needs no privilege.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::{Runtime, RuntimeError, apt};
use crate::command::Tool;
use crate::progress::Progress;

/// The Debian release of the images, whatever release the host runs.
pub(super) const SUITE: &str = "bookworm";

/// The packages of every image, about as much as Lambda's base image has: a shell and its tools,
/// curl, the C and C++ libraries, certificates, time zones.
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

/// CPython's whole library, which Debian splits.
const PYTHON: &[&str] = &[
    "libsqlite3-0",
    "python3-distutils",
    "python3-gdbm",
    "python3-lib2to3",
    "python3.11",
    "python3.11-venv",
];

/// The packages of `runtime`'s image, without their dependencies.
pub(super) fn wanted(runtime: Runtime) -> Vec<&'static str> {
    let own: &[&str] = match runtime {
        Runtime::Python311 => PYTHON,
        // Node.js itself comes from npm.
        Runtime::Node20 | Runtime::Node22 | Runtime::Provided => &[],
    };
    [BASE, own].concat()
}

/// Fetches the packages `wanted` and their dependencies and unpacks them into the new folder
/// `root`. `work` is for intermediate files; `label` names the artefact in progress lines.
pub(super) fn unpack(
    wanted: &[&str],
    label: &str,
    work: &Path,
    root: &Path,
    progress: &dyn Progress,
) -> Result<(), RuntimeError> {
    let archive = work.join("packages.tar");
    let sources = work.join("sources.list");
    // No script is run, so an unprivileged user namespace is enough. Where the host forbids them,
    // mmdebstrap's error says so.
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
             (apt-get update); mmdebstrap's output:",
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
        .advice("is the disk full? Its output:")
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
