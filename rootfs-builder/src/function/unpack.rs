//! Writes a checked tree to an empty folder: first folders and files, then links.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use super::FunctionError;
use super::tree::{Node, Tree};

/// Makes `root` and everything in it. `content` returns a file's bytes.
pub(super) fn write(
    tree: &Tree,
    root: &Path,
    mut content: impl FnMut(&str) -> Result<Vec<u8>, FunctionError>,
) -> Result<(), FunctionError> {
    let folder = |path: &Path| -> Result<(), FunctionError> {
        DirBuilder::new()
            .mode(0o755)
            .create(path)
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
            .map_err(FunctionError::io("create", path))
    };
    folder(root)?;
    for (name, node) in tree.entries() {
        let path = root.join(name);
        match node {
            Node::Folder => folder(&path)?,
            Node::File { size, executable } => {
                let bytes = content(name)?;
                if bytes.len() as u64 != *size {
                    let what = "its size changed while it was read";
                    return Err(FunctionError::BadContent {
                        name: name.to_owned(),
                        what,
                    });
                }
                let mode = if *executable { 0o755 } else { 0o644 };
                // `create_new`: the file must not exist, so nothing is written through a link.
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(mode)
                    .open(&path)
                    .and_then(|mut file| {
                        file.write_all(&bytes)?;
                        // The mode must not depend on the process's umask.
                        file.set_permissions(Permissions::from_mode(mode))
                    })
                    .map_err(FunctionError::io("write", &path))?;
            }
            Node::Link { .. } => {}
        }
    }
    for (name, node) in tree.entries() {
        if let Node::Link { target } = node {
            let path = root.join(name);
            symlink(target, &path).map_err(FunctionError::io("write", &path))?;
        }
    }
    Ok(())
}
