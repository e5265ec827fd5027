//! The file behind a disk. It is opened for reading only and never changes size under the guest's
//! feet: what the guest may read is decided once, when it is opened.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::devices::GuestMemory;
use crate::devices::virtio::chain::Segment;
use crate::devices::virtio::guest_io;

/// Bytes of a virtio-blk sector, whatever the medium (virtio 1.2, 5.2.4).
pub const SECTOR: u64 = 512;

/// Why an image can't be a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It can't be opened or examined.
    #[error("disk image {path}: {source}")]
    Open {
        /// Its path, or where it came from.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// A directory, device, pipe or socket.
    #[error("disk image {0} is not a regular file")]
    NotAFile(String),
    /// Not a whole number of sectors.
    #[error("disk image {path} has {size} bytes, not a multiple of {SECTOR}")]
    Size {
        /// Its path.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// Nothing in it: a drive without a medium is said by giving no image.
    #[error("disk image {0} is empty")]
    Empty(String),
}

/// An image file that can be a disk.
#[derive(Debug)]
pub struct Image {
    file: File,
    sectors: u64,
}

impl Image {
    /// Opens the file at `path`.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let name = path.display().to_string();
        let file = OpenOptions::new()
            .read(true)
            // A FIFO must not block the open; it is refused right after.
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|source| ImageError::Open {
                path: name.clone(),
                source,
            })?;
        Self::new(file, name)
    }

    /// An image from an open file; `name` is for errors.
    pub fn new(file: File, name: String) -> Result<Self, ImageError> {
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(source) => return Err(ImageError::Open { path: name, source }),
        };
        if !metadata.is_file() {
            return Err(ImageError::NotAFile(name));
        }
        let size = metadata.len();
        if size == 0 {
            return Err(ImageError::Empty(name));
        }
        if !size.is_multiple_of(SECTOR) {
            return Err(ImageError::Size { path: name, size });
        }
        Ok(Self {
            file,
            sectors: size / SECTOR,
        })
    }

    /// Its size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Reads `len` bytes at byte `offset` straight into guest memory.
    pub fn read(
        &self,
        memory: &GuestMemory,
        segments: &[Segment],
        len: usize,
        offset: u64,
    ) -> io::Result<()> {
        guest_io::read_file_exact(self.file.as_fd(), memory, segments, 0, len, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(size: usize) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; size]).unwrap();
        file
    }

    #[test]
    fn an_image_of_whole_sectors_opens() {
        let file = file_of(4096);
        assert_eq!(Image::open(file.path()).unwrap().sectors(), 8);
    }

    #[test]
    fn errors_name_the_path() {
        let error = Image::open(Path::new("/nowhere/image.erofs")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/image.erofs"));
    }

    #[test]
    fn a_ragged_or_empty_file_is_refused() {
        let ragged = file_of(513);
        assert!(matches!(
            Image::open(ragged.path()),
            Err(ImageError::Size { size: 513, .. })
        ));
        let empty = file_of(0);
        assert!(matches!(
            Image::open(empty.path()),
            Err(ImageError::Empty(_))
        ));
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_without_blocking() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Image::open(dir.path()),
            Err(ImageError::NotAFile(_))
        ));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(Image::open(&fifo), Err(ImageError::NotAFile(_))));
        assert!(matches!(
            Image::open(Path::new("/dev/null")),
            Err(ImageError::NotAFile(_))
        ));
    }
}
