//! Finds and unpacks the kernel's source.

use std::fs;
use std::path::{Path, PathBuf};

use super::KernelError;
use crate::command::Tool;
use crate::digest;
use crate::progress::Progress;

const PACKAGE: &str = "linux-source-6.12";
const ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// Files that the build never reads: a third of the source. It does read their folders' Kconfig
/// files.
const UNREAD: &[&str] = &[
    "*/Documentation/*/*",
    "*/drivers/gpu/*/*.[ch]",
    "*/sound/*/*.[ch]",
];

/// An archive of the kernel's source.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    /// The package's version; for another archive, its hash.
    pub(super) version: String,
}

impl Source {
    /// The archive `given`, or the one of the distribution's package.
    pub(super) fn find(given: Option<&Path>) -> Result<Self, KernelError> {
        let path = given.unwrap_or(Path::new(ARCHIVE)).to_owned();
        if !path.is_file() {
            return Err(KernelError::NoSource { path });
        }
        let version = match given {
            None => Tool::new("dpkg-query", "dpkg")
                .args(["--show", "--showformat=${Version}", PACKAGE])
                .output()?,
            Some(path) => digest::of_file(path).map_err(KernelError::io("read", path))?,
        };
        Ok(Self { path, version })
    }

    /// Unpacks the archive into `work` and returns the source's top folder.
    pub(super) fn unpack(
        &self,
        work: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, KernelError> {
        let into = work.join("source");
        fs::create_dir(&into).map_err(KernelError::io("create", &into))?;
        Tool::new("tar", "tar xz-utils")
            .args(["--extract", "--no-same-owner"])
            .args(UNREAD.iter().map(|pattern| format!("--exclude={pattern}")))
            .arg("--file")
            .arg(&self.path)
            .arg("--directory")
            .arg(&into)
            .advice("is the archive damaged, is the disk full, is xz-utils installed? Its output:")
            .run("kernel: unpacking the source", progress)?;
        fs::read_dir(&into)
            .map_err(KernelError::io("read", &into))?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.join("Kconfig").is_file())
            .ok_or_else(|| KernelError::NotSource {
                path: self.path.clone(),
            })
    }
}
