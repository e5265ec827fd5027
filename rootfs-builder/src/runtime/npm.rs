//! Packages from npm: fetched by npm's own client, checked against pinned hashes, and unpacked
//! without running any of their scripts.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha512};

use super::RuntimeError;
use crate::command::Tool;
use crate::progress::Progress;

/// One line of a list of pins: `name version integrity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pin<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    /// npm's integrity string: `sha512-` and the hash in base64.
    integrity: &'a str,
}

impl<'a> Pin<'a> {
    /// The pin of `name`. If there are several versions, the one that starts with `major.`.
    pub(super) fn find(list: &'a str, name: &str, major: &str) -> Option<Self> {
        list.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some(Self {
                    name: words.next()?,
                    version: words.next()?,
                    integrity: words.next()?,
                })
            })
            .find(|pin| {
                pin.name == name
                    && pin
                        .version
                        .strip_prefix(major)
                        .is_some_and(|rest| rest.starts_with('.'))
            })
    }
}

/// Fetches `pin` and unpacks it into the new folder `into`. `work` is for intermediate files.
pub(super) fn unpack(
    pin: Pin<'_>,
    work: &Path,
    into: &Path,
    progress: &dyn Progress,
) -> Result<(), RuntimeError> {
    let spec = format!("{}@{}", pin.name, pin.version);
    Tool::new("npm", "npm")
        .args(["pack", "--silent", "--ignore-scripts", "--pack-destination"])
        .arg(work)
        .arg(&spec)
        // So that no project's own npm settings apply.
        .current_dir(work)
        .advice("is the npm registry reachable? Its output:")
        .run(&format!("npm: fetching {spec}"), progress)?;
    let archive = work.join(format!("{}-{}.tgz", pin.name, pin.version));
    check(pin, &archive)?;
    fs::create_dir_all(into).map_err(RuntimeError::io("create", into))?;
    Tool::new("tar", "tar")
        .args(["--extract", "--gzip", "--no-same-owner"])
        .args(["--strip-components=1", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(into)
        .advice("is the disk full? Its output:")
        .output()?;
    fs::remove_file(&archive).map_err(RuntimeError::io("remove", &archive))
}

fn check(pin: Pin<'_>, archive: &Path) -> Result<(), RuntimeError> {
    let bytes = fs::read(archive).map_err(RuntimeError::io("read", archive))?;
    let found = format!("sha512-{}", BASE64.encode(Sha512::digest(&bytes)));
    if found == pin.integrity {
        return Ok(());
    }
    Err(RuntimeError::Integrity {
        package: format!("{}@{}", pin.name, pin.version),
        pinned: pin.integrity.to_owned(),
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# comment 1.0\nnode 20.1.0 sha512-a\nnode 2.9.1 sha512-b\n";

    #[test]
    fn a_pin_is_found_by_name_and_major_version() {
        let pin = Pin::find(LIST, "node", "2").unwrap();
        assert_eq!((pin.version, pin.integrity), ("2.9.1", "sha512-b"));
        assert_eq!(Pin::find(LIST, "node", "20").unwrap().version, "20.1.0");
        assert_eq!(Pin::find(LIST, "node", "22"), None);
        assert_eq!(Pin::find(LIST, "nod", "20"), None);
    }

    #[test]
    fn a_package_with_other_content_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("p.tgz");
        fs::write(&archive, "abc").unwrap();
        let mut pin = Pin {
            name: "p",
            version: "1.0.0",
            integrity: "sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==",
        };
        check(pin, &archive).unwrap();
        pin.integrity = "sha512-3a82";
        let error = check(pin, &archive).unwrap_err().to_string();
        assert!(
            error.contains("p@1.0.0") && error.contains("3a82"),
            "{error}"
        );
    }
}
