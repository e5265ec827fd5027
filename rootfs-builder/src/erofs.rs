//! Makes a read-only EROFS image of a folder.
//!
//! The image is uncompressed, because the guest would pay for decompression. It is reproducible:
//! file system id and time stamps are fixed, root owns all files, there are no extended attributes,
//! and `mkfs.erofs` writes files in the order of their names.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::command::{CommandError, Tool};
use crate::progress::Progress;

/// The file system id of all images. It is fixed so that it does not differ between builds; nothing
/// looks an image up by it.
const FILE_SYSTEM_ID: &str = "68656172-7468-4665-8000-000000000001";
/// Time stamp of all files: 1980-01-01, the first that a ZIP archive can hold, so that programs
/// that repack files in the guest accept it.
const TIME_STAMP: &str = "315532800";
/// A disk's size must be a multiple of this.
const SECTOR: u64 = 512;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// `mkfs.erofs` is missing or failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The finished image can't be used as a disk.
    #[error("mkfs.erofs made an image of {length} bytes, not a multiple of {SECTOR}: {}", path.display())]
    NotSectors {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
    /// The image could not be read or flushed.
    #[error("cannot write the image {}: {source}", path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// Makes `image` of the folder `tree`, and flushes it to disk.
pub(crate) fn make(
    tree: &Path,
    image: &Path,
    step: &str,
    progress: &dyn Progress,
) -> Result<(), ErofsError> {
    Tool::new("mkfs.erofs", "erofs-utils")
        .args([
            "--quiet",
            "--all-root",
            "-x-1",
            "-T",
            TIME_STAMP,
            "-U",
            FILE_SYSTEM_ID,
        ])
        .arg(image)
        .arg(tree)
        .advice("is the disk full? Its output:")
        .run(step, progress)?;
    let io = |source| ErofsError::Io {
        path: image.to_owned(),
        source,
    };
    let length = fs::metadata(image).map_err(io)?.len();
    if length == 0 || length % SECTOR != 0 {
        return Err(ErofsError::NotSectors {
            path: image.to_owned(),
            length,
        });
    }
    File::open(image)
        .and_then(|file| file.sync_all())
        .map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest;
    use crate::progress::Quiet;

    /// An image of these files, created in the given order.
    fn image_of(names: &[&str]) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for name in names {
            let path = tree.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, name.repeat(3000)).unwrap();
        }
        let image = dir.path().join("image");
        make(&tree, &image, "test", &Quiet).unwrap();
        let hash = digest::of_file(&image).unwrap();
        (dir, hash)
    }

    #[test]
    fn the_same_files_give_the_same_bytes_in_whatever_order_they_came() {
        let (_one, first) = image_of(&["b", "a/x", "a/y", "c/d/e", "z", "q"]);
        let (_two, second) = image_of(&["q", "z", "c/d/e", "a/y", "a/x", "b"]);
        assert_eq!(first, second);
    }

    #[test]
    fn an_image_is_a_whole_number_of_sectors() {
        let (dir, _) = image_of(&["a"]);
        assert_eq!(
            fs::metadata(dir.path().join("image")).unwrap().len() % SECTOR,
            0
        );
    }
}
