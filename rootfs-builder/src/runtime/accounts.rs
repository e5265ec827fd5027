//! Writes the guest's files below `/etc`: user accounts, host names, the resolver's configuration,
//! the time zone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::RuntimeError;

/// The user and group that functions run as; name and number are Lambda's.
const FUNCTION_USER: &str = "sbx_user1051";
const FUNCTION_ID: u32 = 993;

/// The guest's host name.
const NAME: &str = "sandbox";

/// Writes the files below `root`, the image's root.
pub(super) fn write(root: &Path) -> Result<(), RuntimeError> {
    let files: [(&str, String); 7] = [
        (
            "etc/passwd",
            format!(
                "root:x:0:0:root:/root:/bin/sh\n\
                 {FUNCTION_USER}:x:{FUNCTION_ID}:{FUNCTION_ID}:function:/tmp:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        (
            "etc/group",
            format!("root:x:0:\n{FUNCTION_USER}:x:{FUNCTION_ID}:\nnogroup:x:65534:\n"),
        ),
        (
            "etc/nsswitch.conf",
            // No `dns`: a guest has no network but loopback, so a query to a name server could only
            // time out.
            "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\n"
                .to_owned(),
        ),
        (
            "etc/hosts",
            // Extensions for Lambda use the last two names for their own listeners. The last is the
            // guest's own, too: programs look it up.
            format!("127.0.0.1 localhost {NAME}.localdomain {NAME}\n"),
        ),
        // The agent reads it.
        ("etc/hostname", format!("{NAME}\n")),
        ("etc/resolv.conf", String::new()),
        // For programs that read the time zone from this file and not from TZ.
        ("etc/timezone", "Etc/UTC\n".to_owned()),
    ];
    for (name, content) in files {
        let path = root.join(name);
        remove(&path)?;
        fs::write(&path, content).map_err(RuntimeError::io("write", &path))?;
    }
    link(root, "etc/localtime", "/usr/share/zoneinfo/Etc/UTC")?;
    link(root, "etc/mtab", "/proc/mounts")?;
    // Lambda sets LANG=en_US.UTF-8, and programs print a warning if that locale is missing. The
    // link to C.UTF-8 avoids the warning without a locale of several megabytes.
    link(root, "usr/lib/locale/en_US.utf8", "C.utf8")
}

/// Makes `name` a symbolic link to `target`; an existing file `name` is replaced.
pub(super) fn link(root: &Path, name: &str, target: &str) -> Result<(), RuntimeError> {
    let path = root.join(name);
    remove(&path)?;
    symlink(target, &path).map_err(RuntimeError::io("write", &path))
}

fn remove(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RuntimeError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
