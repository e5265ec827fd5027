//! A folder becomes a package: the ZIP that Lambda's API takes.
//!
//! * [`files`]: which files go in
//! * [`python`]: dependencies from `requirements.txt`
//! * [`rust`]: a program built with Cargo
//! * [`archive`]: the ZIP, the same bytes for the same files

mod archive;
mod files;
mod python;
mod rust;

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
pub(crate) use files::{FilesError, Selection};
pub(crate) use python::{Vendor, VendorError};
pub(crate) use rust::BuildError;
use sha2::{Digest, Sha256};

use crate::project::Project;

/// Largest package in bytes (Lambda: 50 MiB, zipped, direct upload).
pub(crate) const MAX_ZIPPED: u64 = 52_428_800;
/// Largest content of a package in bytes (Lambda: 250 MiB).
pub(crate) const MAX_UNZIPPED: u64 = 262_144_000;

/// A package, ready to be uploaded.
pub(crate) struct Package {
    /// The ZIP.
    pub(crate) zip: Vec<u8>,
    /// How many files are in it.
    pub(crate) files: usize,
    /// What the folder's owner may not have meant.
    pub(crate) remarks: Vec<String>,
    /// Their names.
    names: Vec<String>,
    /// Where pip put the dependencies, as long as the [`Vendor`] is there.
    pub(crate) vendored: Option<PathBuf>,
    /// Base64 of the ZIP's SHA-256, as Lambda's `CodeSha256`.
    pub(crate) sha256: String,
}

impl Package {
    /// The names of its files: relative paths, with `/`.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

impl std::fmt::Debug for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Package")
            .field("bytes", &self.zip.len())
            .field("files", &self.files)
            .field("sha256", &self.sha256)
            .finish()
    }
}

/// One file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Path in the package: relative, with `/`.
    name: String,
    /// Where its bytes are.
    source: PathBuf,
    /// Whether it may be run.
    executable: bool,
}

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    /// The folder's files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Python's dependencies.
    #[error(transparent)]
    Vendor(#[from] VendorError),
    /// Cargo.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The archive can't hold it.
    #[error("{name}: {source}")]
    Zip {
        /// The file's name in the package.
        name: String,
        /// What the library said.
        source: zip::result::ZipError,
    },
    /// Nothing in it.
    #[error("{0} holds no file to deploy")]
    Empty(PathBuf),
    /// A `provided` function without its program.
    #[error(
        "{dir} has no executable file bootstrap, which the runtime {runtime} starts; if it is there, \
         `chmod +x bootstrap`"
    )]
    NoBootstrap {
        /// The folder.
        dir: PathBuf,
        /// The runtime.
        runtime: String,
    },
    /// Too much content.
    #[error(
        "the package holds {size} bytes, the limit is {MAX_UNZIPPED}; the largest file is {largest}"
    )]
    TooMuch {
        /// All files together.
        size: u64,
        /// Name of the largest.
        largest: String,
    },
    /// The ZIP is too long.
    #[error(
        "the package is {0} bytes zipped, the limit is {MAX_ZIPPED}; leave files out with \
         exclude = […] in hearth.toml"
    )]
    TooLong(u64),
}

/// Makes a project's package. `vendor` holds what pip put together before, to be used again.
pub(crate) fn build(project: &Project, vendor: &Vendor) -> Result<Package, PackageError> {
    let mut entries = if project.dir.join("Cargo.toml").is_file() {
        vec![Entry {
            name: "bootstrap".to_owned(),
            source: rust::build(&project.dir)?,
            executable: true,
        }]
    } else {
        Selection::of(project).entries()?
    };
    let mut dependencies_in = None;
    if project.runtime.starts_with("python") {
        let requirements = project.dir.join("requirements.txt");
        if requirements.is_file() {
            let vendored = vendor.vendored(&requirements, &project.runtime)?;
            let dependencies = Selection::everything(&vendored).entries()?;
            // The folder's own files win over a dependency's of the same name.
            let own: std::collections::HashSet<String> =
                entries.iter().map(|entry| entry.name.clone()).collect();
            entries.extend(
                dependencies
                    .into_iter()
                    .filter(|entry| !own.contains(&entry.name)),
            );
            dependencies_in = Some(vendored);
        }
    }
    if entries.is_empty() {
        return Err(PackageError::Empty(project.dir.clone()));
    }
    let is_bootstrap = |entry: &Entry| entry.name == "bootstrap" && entry.executable;
    if project.runtime.starts_with("provided") && !entries.iter().any(is_bootstrap) {
        return Err(PackageError::NoBootstrap {
            dir: project.dir.clone(),
            runtime: project.runtime.clone(),
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    check_size(&entries)?;
    let zip = archive::zip(&entries)?;
    if zip.len() as u64 > MAX_ZIPPED {
        return Err(PackageError::TooLong(zip.len() as u64));
    }
    Ok(Package {
        sha256: STANDARD.encode(Sha256::digest(&zip)),
        files: entries.len(),
        remarks: Selection::of(project).remarks(),
        names: entries.into_iter().map(|entry| entry.name).collect(),
        vendored: dependencies_in,
        zip,
    })
}

fn check_size(entries: &[Entry]) -> Result<(), PackageError> {
    let mut size = 0;
    let mut largest = (0, "");
    for entry in entries {
        let length = length(&entry.source)?;
        size += length;
        if length >= largest.0 {
            largest = (length, &entry.name);
        }
    }
    if size > MAX_UNZIPPED {
        return Err(PackageError::TooMuch {
            size,
            largest: largest.1.to_owned(),
        });
    }
    Ok(())
}

fn length(path: &Path) -> Result<u64, PackageError> {
    match path.metadata() {
        Ok(metadata) => Ok(metadata.len()),
        Err(source) => Err(PackageError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Settings;

    fn project(files: &[(&str, &str)]) -> (tempfile::TempDir, Project) {
        let dir = tempfile::Builder::new().prefix("fn").tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let flags = Settings {
            name: Some("f".parse().unwrap()),
            handler: Some("app.handler".into()),
            ..Settings::default()
        };
        let project = Project::load(dir.path(), &flags).unwrap();
        (dir, project)
    }

    #[test]
    fn the_same_files_give_the_same_bytes_wherever_and_whenever_they_were_written() {
        let files = [("app.py", "x = 1\n"), ("lib/b.py", "y"), ("lib/a.py", "z")];
        let (_one, first) = project(&files);
        let (_two, second) = project(&[files[2], files[0], files[1]]);
        let vendor = Vendor::new();
        let first = build(&first, &vendor).unwrap();
        let second = build(&second, &vendor).unwrap();
        assert_eq!(first.zip, second.zip);
        assert_eq!(first.files, 3);
        assert_eq!(first.sha256.len(), 44);
    }

    #[test]
    fn another_byte_or_another_mode_gives_another_package() {
        let (dir, one) = project(&[("bootstrap", "#!/bin/sh\n"), ("hearth.toml", "")]);
        let vendor = Vendor::new();
        let error = build(&one, &vendor).unwrap_err();
        assert!(matches!(error, PackageError::NoBootstrap { .. }), "{error}");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path().join("bootstrap"), mode).unwrap();
        let first = build(&one, &vendor).unwrap();
        std::fs::write(dir.path().join("bootstrap"), "#!/bin/sh\n\n").unwrap();
        let second = build(&one, &vendor).unwrap();
        assert_ne!(first.sha256, second.sha256);
    }

    #[test]
    fn a_folder_of_nothing_but_its_description_is_empty() {
        let (_dir, project) = project(&[("hearth.toml", "runtime = 'python3.11'")]);
        let error = build(&project, &Vendor::new()).unwrap_err();
        assert!(matches!(error, PackageError::Empty(_)), "{error}");
    }
}
