//! Function images: a code package becomes the disk behind `/var/task`, and layers become the disk
//! behind `/opt`.
//!
//! A package is hostile input. Before the first file is written, everything about it is checked:
//! sizes, names, links, the structure of the archive. While files are unpacked, their real sizes
//! and checksums are compared with the declared ones. Nothing is ever written through a link,
//! because links are made last. The image appears under its name only when it is complete.
//!
//! Modes are as on Lambda: root owns all files, execute permission is that of the package, and
//! set-user-id and similar bits are dropped. Everything is readable, because packages that programs
//! write often have the mode 0600 without need.

mod archive;
#[cfg(test)]
mod craft;
mod error;
mod folder;
mod layers;
mod name;
mod records;
mod tree;
mod unpack;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use error::FunctionError;
pub use layers::build_from_layers;
use tree::Tree;

use crate::progress::Quiet;
use crate::{digest, erofs};

/// Maximum size of an archive in bytes, as on Lambda.
pub const MAX_ZIPPED_BYTES: u64 = 52_428_800;
/// Maximum sum of a package's files in bytes.
pub const MAX_UNZIPPED_BYTES: u64 = 262_144_000;
/// Maximum number of files, folders and links in a package.
pub const MAX_ENTRIES: usize = 100_000;

/// A finished function image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionImage {
    /// Path of the image.
    pub path: PathBuf,
    /// SHA-256 of the image, 64 lower-case hexadecimal digits. The same package always gives the
    /// same image.
    pub sha256: String,
    /// Sum of the package's files and links in bytes.
    pub unpacked_bytes: u64,
}

/// Makes the image `out` from a ZIP archive in memory.
///
/// `out` is replaced if it exists; its folder must exist.
///
/// # Errors
///
/// The archive violates a rule, or the image can't be written. `out` is then unchanged.
pub fn build_from_zip(zip: &[u8], out: &Path) -> Result<FunctionImage, FunctionError> {
    let package = archive::Package::parse(zip)?;
    build(out, package.tree(), |path| package.content(path))
}

/// Makes the image `out` from a ZIP archive in a file.
///
/// # Errors
///
/// As [`build_from_zip`]; also if the archive can't be read.
pub fn build_from_zip_file(zip: &Path, out: &Path) -> Result<FunctionImage, FunctionError> {
    let io = FunctionError::io("read", zip);
    let size = fs::metadata(zip).map(|metadata| metadata.len());
    // Check the size before reading the archive into memory.
    match size {
        Ok(size) if size > MAX_ZIPPED_BYTES => Err(FunctionError::ZippedTooLarge {
            size,
            limit: MAX_ZIPPED_BYTES,
        }),
        Ok(_) => build_from_zip(&fs::read(zip).map_err(io)?, out),
        Err(error) => Err(io(error)),
    }
}

/// Unpacks a ZIP archive into `folder`, which must not exist, and returns the sum of its files and
/// links in bytes. The image would have the same content.
///
/// # Errors
///
/// The archive violates a rule, or the folder can't be written; a part of it may then be left.
pub fn unpack_zip(zip: &[u8], folder: &Path) -> Result<u64, FunctionError> {
    let package = archive::Package::parse(zip)?;
    unpack::write(package.tree(), folder, |path| package.content(path))?;
    Ok(package.tree().bytes())
}

/// Makes the image `out` from a folder. Names, links and sizes have to follow the rules for
/// archives.
///
/// # Errors
///
/// As [`build_from_zip`].
pub fn build_from_dir(dir: &Path, out: &Path) -> Result<FunctionImage, FunctionError> {
    let tree = folder::read(dir)?;
    build(out, &tree, |path| folder::content(&dir.join(path)))
}

/// Writes a checked tree to a temporary folder beside `out`, and makes the image from it.
fn build(
    out: &Path,
    tree: &Tree,
    content: impl FnMut(&str) -> Result<Vec<u8>, FunctionError>,
) -> Result<FunctionImage, FunctionError> {
    let beside = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let work = tempfile::Builder::new()
        .prefix(".function-")
        .tempdir_in(beside)
        .map_err(FunctionError::io("create a folder in", beside))?;
    let files = work.path().join("task");
    unpack::write(tree, &files, content)?;
    let image = work.path().join("image");
    erofs::make(&files, &image, "function: image", &Quiet)?;
    let sha256 = digest::of_file(&image).map_err(FunctionError::io("read", &image))?;
    fs::rename(&image, out).map_err(FunctionError::io("write", out))?;
    File::open(beside)
        .and_then(|folder| folder.sync_all())
        .map_err(FunctionError::io("write", beside))?;
    Ok(FunctionImage {
        path: out.to_owned(),
        sha256,
        unpacked_bytes: tree.bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::craft::{Crafted, Entry};
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_package_becomes_an_image_and_the_same_one_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let zip = Crafted::of([
            Entry::file("app.py", b"def handler(e, c): return e\n"),
            Entry::file("lib/deep/data.bin", &[7; 9000]),
            Entry::link("lib/again", "deep/data.bin"),
        ])
        .bytes();
        let one = build_from_zip(&zip, &dir.path().join("one.erofs")).unwrap();
        let two = build_from_zip(&zip, &dir.path().join("two.erofs")).unwrap();
        assert_eq!(one.sha256, two.sha256);
        assert_eq!(one.unpacked_bytes, 28 + 9000 + 13);
        assert_eq!(one.sha256, digest::of_file(&one.path).unwrap());
        let mut left = names(dir.path());
        left.sort();
        assert_eq!(left, ["one.erofs", "two.erofs"]);
    }

    #[test]
    fn a_folder_gives_the_same_image_as_its_archive() {
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("package");
        fs::create_dir_all(package.join("lib")).unwrap();
        fs::write(package.join("app.py"), "x").unwrap();
        fs::write(package.join("lib/a.txt"), "y").unwrap();
        let zip =
            Crafted::of([Entry::file("app.py", b"x"), Entry::file("lib/a.txt", b"y")]).bytes();
        let from_dir = build_from_dir(&package, &dir.path().join("dir.erofs")).unwrap();
        let from_zip = build_from_zip(&zip, &dir.path().join("zip.erofs")).unwrap();
        assert_eq!(from_dir.sha256, from_zip.sha256);
    }

    #[test]
    fn a_failed_build_leaves_the_old_image_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("f.erofs");
        fs::write(&out, "old").unwrap();
        let zip = Crafted::of([Entry::file("a", b"content").with_crc(1)]).bytes();
        build_from_zip(&zip, &out).unwrap_err();
        assert_eq!(fs::read_to_string(&out).unwrap(), "old");
        assert_eq!(names(dir.path()), ["f.erofs"]);
    }

    #[test]
    fn an_archive_over_the_limit_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let zip = dir.path().join("huge.zip");
        File::create(&zip)
            .unwrap()
            .set_len(MAX_ZIPPED_BYTES + 1)
            .unwrap();
        let error = build_from_zip_file(&zip, &dir.path().join("f.erofs")).unwrap_err();
        assert!(matches!(
            error,
            FunctionError::ZippedTooLarge {
                size: 52_428_801,
                ..
            }
        ));
    }

    #[test]
    fn an_unreadable_archive_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let zip = dir.path().join("none.zip");
        let error = build_from_zip_file(&zip, &dir.path().join("f.erofs")).unwrap_err();
        assert!(error.to_string().contains("none.zip"), "{error}");
        assert_eq!(error.lambda_message(), None);
    }
}
