//! Completes the Python image: adds Lambda's runtime client, its launcher, the AWS SDK and bytecode
//! to the unpacked Debian packages.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::RuntimeError;
use super::accounts::link;
use crate::command::Tool;
use crate::progress::Progress;

/// The wheels of the runtime client and of the AWS SDK, with the hash of each.
pub(super) const REQUIREMENTS: &str = include_str!("../../python/requirements.txt");
/// The launcher, `/var/runtime/bootstrap`.
pub(super) const BOOTSTRAP: &str = include_str!("../../python/bootstrap");
/// The client's transport, `/var/runtime/runtime_client.py`.
pub(super) const TRANSPORT: &str = include_str!("../../python/runtime_client.py");
/// The launcher's part that registers random generators, `/var/runtime/random_generators.py`.
pub(super) const GENERATORS: &str = include_str!("../../python/random_generators.py");
/// `/etc/hearth/resident`: the files whose code every Python function executes.
pub(super) const RESIDENT: &str = include_str!("../../python/resident");
/// The runtime client's own transport. It is removed: Python would import it in place of
/// [`TRANSPORT`].
const NATIVE_TRANSPORT: &str = "runtime_client.cpython-311-x86_64-linux-gnu.so";

const RUNTIME: &str = "var/runtime";
const LIBRARY: &str = "usr/lib/python3.11";
/// Program that imports, in the finished image, everything that the launcher and functions rely on.
pub(super) const PROBE: &str = include_str!("../../python/probe.py");
/// Puts [`RUNTIME`] on the import path of every process of the interpreter, as Lambda's has what comes
/// with the runtime. The launcher sets the path of its own process.
const PATH_FILE: &str = "usr/lib/python3/dist-packages/runtime.pth";

/// Completes the tree at `root`; `work` is for intermediate files.
pub(super) fn complete(
    root: &Path,
    work: &Path,
    progress: &dyn Progress,
) -> Result<(), RuntimeError> {
    install_wheels(root, work, progress)?;
    let native = root.join(RUNTIME).join(NATIVE_TRANSPORT);
    fs::remove_file(&native).map_err(RuntimeError::io("remove", &native))?;
    for (name, text) in [
        ("runtime_client.py", TRANSPORT),
        ("random_generators.py", GENERATORS),
    ] {
        let path = root.join(RUNTIME).join(name);
        fs::write(&path, text).map_err(RuntimeError::io("write", &path))?;
    }
    list_resident(root)?;
    let bootstrap = root.join(RUNTIME).join("bootstrap");
    fs::write(&bootstrap, BOOTSTRAP)
        .and_then(|()| fs::set_permissions(&bootstrap, Permissions::from_mode(0o755)))
        .map_err(RuntimeError::io("write", &bootstrap))?;
    for name in ["python3.11", "python3", "python"] {
        link(root, &format!("var/lang/bin/{name}"), "/usr/bin/python3.11")?;
    }
    link(root, "usr/bin/python3", "python3.11")?;
    let path_file = root.join(PATH_FILE);
    fs::write(&path_file, format!("/{RUNTIME}\n"))
        .map_err(RuntimeError::io("write", &path_file))?;
    compile(root, progress)?;
    interpreter(root)?
        .env("PYTHONPATH", root.join(RUNTIME))
        .args(["-B", "-s", "-c", PROBE])
        .advice("the image's Python can't import what it needs:")
        .output()?;
    Ok(())
}

fn install_wheels(root: &Path, work: &Path, progress: &dyn Progress) -> Result<(), RuntimeError> {
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(RuntimeError::io("write", &requirements))?;
    Tool::new("python3", "python3 python3-pip")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args([
            "--no-deps",
            "--no-compile",
            "--require-hashes",
            "--only-binary=:all:",
        ])
        // Wheels for the image's Python; the Python that runs pip may be another.
        .args([
            "--implementation=cp",
            "--python-version=3.11",
            "--abi=cp311",
            "--abi=none",
        ])
        .args([
            "--platform=manylinux2014_x86_64",
            "--platform=manylinux_2_28_x86_64",
        ])
        .arg("--target")
        .arg(root.join(RUNTIME))
        .arg("--requirement")
        .arg(&requirements)
        .advice("is python3-pip installed and the package index reachable? pip's output:")
        .run(
            "python3.11: installing the Lambda runtime client and the AWS SDK",
            progress,
        )?;
    // Programs of the wheels, which no function runs.
    let programs = root.join(RUNTIME).join("bin");
    crate::cache::remove_tree(&programs).map_err(RuntimeError::io("remove", &programs))?;
    fs::remove_file(&requirements).map_err(RuntimeError::io("remove", &requirements))
}

/// Writes the list of files that the agent reads into the page cache before the runtime snapshot is
/// saved. Without it each instance's first call reads them from the image.
fn list_resident(root: &Path) -> Result<(), RuntimeError> {
    for path in RESIDENT.lines() {
        let path = root.join(path.trim_start_matches('/'));
        if !fs::exists(&path).map_err(RuntimeError::io("read", &path))? {
            return Err(RuntimeError::Absent { path });
        }
    }
    let folder = root.join("etc/hearth");
    fs::create_dir(&folder).map_err(RuntimeError::io("create", &folder))?;
    let list = folder.join("resident");
    fs::write(&list, RESIDENT).map_err(RuntimeError::io("write", &list))
}

/// Compiles every source to bytecode, because a guest's root is read-only. Python does not compare
/// the bytecode with its source at import (`unchecked-hash`), because neither can change.
fn compile(root: &Path, progress: &dyn Progress) -> Result<(), RuntimeError> {
    interpreter(root)?
        // Without a constant seed the order of a set's elements in the bytecode changes with each
        // build.
        .env("PYTHONHASHSEED", "0")
        .args([
            "-s",
            "-m",
            "compileall",
            "-q",
            "-f",
            "--invalidation-mode=unchecked-hash",
        ])
        // Without these, tracebacks show the builder's paths. The prefix must be absolute.
        .arg("-s")
        .arg(root)
        .args(["-p", "/"])
        .arg(root.join(LIBRARY))
        .arg(root.join(RUNTIME))
        .run("python3.11: compiling the library", progress)?;
    Ok(())
}

/// The image's interpreter, to be run on this host with the image's loader and libraries.
fn interpreter(root: &Path) -> Result<Tool, RuntimeError> {
    let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
    let python = root.join("usr/bin/python3.11");
    for path in [&loader, &python] {
        if !fs::exists(path).map_err(RuntimeError::io("read", path))? {
            return Err(RuntimeError::Absent { path: path.clone() });
        }
    }
    Ok(Tool::new(loader, "libc6")
        .arg("--library-path")
        .arg(root.join("usr/lib/x86_64-linux-gnu"))
        .arg(python)
        .env("PYTHONHOME", root.join("usr"))
        .env("PYTHONPLATLIBDIR", "lib"))
}
