//! Turns unpacked Debian packages into the root file system of a guest: merges `/bin`, `/sbin` and
//! `/lib` into `/usr`, removes what no function uses, adds mount points and the bundle of
//! certificates.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::accounts::link;
use super::{RuntimeError, accounts};
use crate::cache::remove_tree;
use crate::command::Tool;

/// Folders that Debian 12 has below `/usr`, with a symbolic link at the old path. Some of its
/// packages still contain files at the old path.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// Mount points, and folders that functions for Lambda expect, that no package contains.
const FOLDERS: &[&str] = &[
    "dev",
    "proc",
    "sys",
    "tmp",
    "run",
    "opt",
    "root",
    "etc",
    "var/task",
    "var/runtime",
    "var/lang/bin",
    "usr/lib/locale",
    "usr/bin",
];

/// Files and folders that no guest uses.
const UNUSED: &[&str] = &[
    "boot",
    "home",
    "media",
    "mnt",
    "srv",
    "etc/apt",
    "etc/cron.daily",
    "etc/cron.d",
    "etc/dpkg",
    "etc/init.d",
    "etc/logrotate.d",
    "etc/rc0.d",
    "etc/skel",
    "etc/update-motd.d",
    "etc/systemd",
    "etc/perl",
    "usr/games",
    "usr/include",
    "usr/lib/apt",
    "usr/lib/dpkg",
    "usr/lib/init",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/lib/tmpfiles.d",
    "usr/lib/sysusers.d",
    "usr/local",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/debconf",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/dpkg",
    "usr/share/applications",
    "usr/share/pixmaps",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/share/polkit-1",
    "usr/share/zoneinfo/right",
    "usr/share/zoneinfo/posix",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "var/backups",
    "var/cache",
    "var/lib",
    "var/local",
    "var/log",
    "var/mail",
    "var/opt",
    "var/spool",
    // Python looks for these at each start; Debian's do nothing in a guest.
    "etc/python3.11",
    "usr/lib/python3.11/sitecustomize.py",
    // Debian's word to pip not to install anything.
    "usr/lib/python3.11/EXTERNALLY-MANAGED",
    // Parts of Python's library that need a display, and its own tests.
    "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/tkinter",
    "usr/lib/python3.11/turtledemo",
    "usr/lib/python3.11/test",
    // Debian's scripts for packages.
    "etc/python3",
    "usr/share/python3",
];

/// Programs and libraries of the package manager and of Perl, by the start of the file's name.
const UNUSED_PROGRAMS: &[&str] = &[
    "perl",
    "dpkg",
    "apt-",
    "deb",
    "debconf",
    "update-alternatives",
];

/// Turns the tree at `root`, unpacked packages, into a guest's root file system.
pub(super) fn shape(root: &Path) -> Result<(), RuntimeError> {
    merge_usr(root)?;
    for name in UNUSED {
        let path = root.join(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => remove_tree(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(RuntimeError::io("remove", &path))?;
    }
    remove_programs(root)?;
    for name in FOLDERS {
        folder(&root.join(name))?;
    }
    accounts::write(root)?;
    // As on Lambda, whose own tutorial's script says `set -o pipefail`.
    link(root, "usr/bin/sh", "bash")?;
    link(root, "usr/bin/awk", "gawk")?;
    applets(root)?;
    certificates(root)?;
    library_cache(root)
}

/// Writes the loader's cache, `/etc/ld.so.cache`. Without it the loader tries a dozen folders for
/// each library, one system call each.
fn library_cache(root: &Path) -> Result<(), RuntimeError> {
    let program = root.join("usr/sbin/ldconfig");
    if !program.is_file() {
        return Err(RuntimeError::Absent { path: program });
    }
    // ldconfig calls chroot(2), which needs root or a user namespace.
    let tool = if nix::unistd::geteuid().is_root() {
        Tool::new(&program, "libc-bin")
    } else {
        Tool::new("unshare", "util-linux")
            .arg("--map-root-user")
            .arg(&program)
    };
    tool.arg("-X")
        .arg("-r")
        .arg(root)
        .advice("ldconfig could not write the library cache; its output:")
        .output()?;
    // ldconfig's own cache holds time stamps, so two builds would differ; only ldconfig reads it.
    let cache = root.join("var/cache");
    remove_tree(&cache).map_err(RuntimeError::io("remove", &cache))
}

/// Moves the files of the [`MERGED`] folders below `/usr` and leaves symbolic links.
fn merge_usr(root: &Path) -> Result<(), RuntimeError> {
    for name in MERGED {
        let (old, new) = (root.join(name), root.join("usr").join(name));
        folder(&new)?;
        if fs::symlink_metadata(&old).is_ok_and(|metadata| metadata.is_dir()) {
            move_into(&old, &new)?;
        }
        link(root, name, &format!("usr/{name}"))?;
    }
    Ok(())
}

/// Moves the content of one folder into another and removes it.
fn move_into(from: &Path, to: &Path) -> Result<(), RuntimeError> {
    for path in listed(from)? {
        let name = path.file_name().expect("an entry of a folder has a name");
        let target = to.join(name);
        let is_folder =
            |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        if is_folder(&path) && is_folder(&target) {
            move_into(&path, &target)?;
        } else {
            fs::rename(&path, &target).map_err(RuntimeError::io("move", &path))?;
        }
    }
    fs::remove_dir(from).map_err(RuntimeError::io("remove", from))
}

fn remove_programs(root: &Path) -> Result<(), RuntimeError> {
    for folder in ["usr/bin", "usr/sbin", "usr/lib/x86_64-linux-gnu"] {
        for path in listed(&root.join(folder))? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let name = name.strip_prefix("lib").unwrap_or(&name);
            let unused = UNUSED_PROGRAMS.iter().any(|start| name.starts_with(start));
            if unused && !path.is_dir() {
                fs::remove_file(&path).map_err(RuntimeError::io("remove", &path))?;
            }
        }
    }
    Ok(())
}

/// Links every BusyBox applet for which no package has a program of that name.
fn applets(root: &Path) -> Result<(), RuntimeError> {
    let busybox = root.join("usr/bin/busybox");
    if !busybox.is_file() {
        return Err(RuntimeError::Absent { path: busybox });
    }
    for name in Tool::new(&busybox, "busybox-static")
        .arg("--list")
        .output()?
        .lines()
    {
        let taken = ["usr/bin", "usr/sbin"]
            .iter()
            .any(|folder| fs::symlink_metadata(root.join(folder).join(name)).is_ok());
        if !taken {
            link(root, &format!("usr/bin/{name}"), "busybox")?;
        }
    }
    Ok(())
}

/// Writes all certificates into one file. The package's own script does this on Debian, but no
/// script is run here.
fn certificates(root: &Path) -> Result<(), RuntimeError> {
    let source = root.join("usr/share/ca-certificates/mozilla");
    let mut bundle = Vec::new();
    for path in listed(&source)? {
        let certificate = fs::read(&path).map_err(RuntimeError::io("read", &path))?;
        bundle.extend(certificate);
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    if bundle.is_empty() {
        return Err(RuntimeError::Absent { path: source });
    }
    folder(&root.join("etc/ssl/certs"))?;
    let path = root.join("etc/ssl/certs/ca-certificates.crt");
    fs::write(&path, bundle).map_err(RuntimeError::io("write", &path))?;
    remove_tree(&source).map_err(RuntimeError::io("remove", &source))?;
    folder(&root.join("usr/lib/ssl"))?;
    // OpenSSL, and therefore Python, reads this path.
    link(
        root,
        "usr/lib/ssl/cert.pem",
        "/etc/ssl/certs/ca-certificates.crt",
    )
}

/// Sets the mode of every file: 0644, or 0755 if it is executable. So no program is set-user-id,
/// and the builder's umask changes nothing. The tree must be complete.
pub(super) fn modes(root: &Path) -> Result<(), RuntimeError> {
    for entry in WalkDir::new(root) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).to_owned();
            let source = error
                .into_io_error()
                .unwrap_or_else(|| std::io::Error::other("a loop of folders"));
            RuntimeError::Io {
                action: "read",
                path,
                source,
            }
        })?;
        let path = entry.path();
        let kind = entry.file_type();
        if kind.is_symlink() {
            continue;
        }
        let metadata = fs::metadata(path).map_err(RuntimeError::io("read", path))?;
        let executable = kind.is_dir() || metadata.permissions().mode() & 0o111 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(RuntimeError::io("change", path))?;
    }
    let tmp = root.join("tmp");
    fs::set_permissions(&tmp, Permissions::from_mode(0o1777))
        .map_err(RuntimeError::io("change", &tmp))
}

fn folder(path: &Path) -> Result<(), RuntimeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(RuntimeError::io("create", path))
}

/// The paths in a folder, sorted by name; empty if the folder doesn't exist.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, RuntimeError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(RuntimeError::io("read", folder))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(RuntimeError::io("read", folder))?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_places_are_merged_into_usr() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("lib/deep")).unwrap();
        fs::create_dir_all(root.join("usr/lib/deep")).unwrap();
        fs::write(root.join("lib/deep/a"), "a").unwrap();
        fs::write(root.join("usr/lib/deep/b"), "b").unwrap();
        merge_usr(root).unwrap();
        assert_eq!(
            fs::read_link(root.join("lib")).unwrap(),
            Path::new("usr/lib")
        );
        assert_eq!(fs::read_to_string(root.join("lib/deep/a")).unwrap(), "a");
        assert_eq!(fs::read_to_string(root.join("lib/deep/b")).unwrap(), "b");
    }

    #[test]
    fn no_program_keeps_the_set_user_id_bit() {
        let dir = tempfile::tempdir().unwrap();
        let su = dir.path().join("su");
        fs::write(&su, "").unwrap();
        fs::set_permissions(&su, Permissions::from_mode(0o4711)).unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        modes(dir.path()).unwrap();
        assert_eq!(
            fs::metadata(&su).unwrap().permissions().mode() & 0o7777,
            0o755
        );
    }
}
