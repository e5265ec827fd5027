//! Reads a package that is a folder on this host.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use walkdir::WalkDir;

use super::tree::{Node, Tree};
use super::{FunctionError, MAX_UNZIPPED_BYTES, name};

/// Lists `dir` by the rules for archives, without following links.
pub(super) fn read(dir: &Path) -> Result<Tree, FunctionError> {
    let mut tree = Tree::default();
    for entry in WalkDir::new(dir).min_depth(1) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(dir).to_owned();
            let source = error
                .into_io_error()
                .unwrap_or_else(|| std::io::Error::other("a loop"));
            FunctionError::Io {
                action: "read",
                path,
                source,
            }
        })?;
        let path = entry.path();
        let inside = path
            .strip_prefix(dir)
            .expect("the walk stays below its start");
        let name = name::parse(inside.as_os_str().as_bytes())?;
        let metadata = entry.metadata().map_err(|error| {
            let source = error
                .into_io_error()
                .unwrap_or_else(|| std::io::Error::other("a loop"));
            FunctionError::Io {
                action: "read",
                path: path.to_owned(),
                source,
            }
        })?;
        let kind = metadata.file_type();
        let node =
            if kind.is_dir() {
                Node::Folder
            } else if kind.is_file() {
                Node::File {
                    size: metadata.len(),
                    executable: metadata.mode() & 0o111 != 0,
                }
            } else if kind.is_symlink() {
                let target = fs::read_link(path).map_err(FunctionError::io("read", path))?;
                let target = target.into_os_string().into_string().map_err(|target| {
                    FunctionError::BadLink {
                        name: name.clone(),
                        target: target.to_string_lossy().into_owned(),
                        why: "is not UTF-8",
                    }
                })?;
                Node::Link { target }
            } else {
                return Err(FunctionError::SpecialFile {
                    name,
                    mode: metadata.mode(),
                });
            };
        tree.add(&name, node)?;
    }
    tree.finish()
}

/// Reads a file, up to the maximum size even if the file grows meanwhile.
pub(super) fn content(path: &Path) -> Result<Vec<u8>, FunctionError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_UNZIPPED_BYTES + 1).read_to_end(&mut bytes))
        .map_err(FunctionError::io("read", path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "x").unwrap();
        symlink("../..", dir.path().join("up")).unwrap();
        assert!(matches!(
            read(dir.path()).unwrap_err(),
            FunctionError::BadLink { .. }
        ));
    }

    #[test]
    fn a_socket_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(matches!(
            read(dir.path()).unwrap_err(),
            FunctionError::SpecialFile { .. }
        ));
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(&dir.path().join("gone")).unwrap_err().to_string();
        assert!(error.contains("gone"), "{error}");
    }
}
