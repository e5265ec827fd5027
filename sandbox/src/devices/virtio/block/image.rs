//! The file behind a disk, open for reading only. Its size is read once, and decides which sectors
//! the guest may read.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::devices::GuestMemory;
use crate::devices::virtio::chain::Segment;
use crate::devices::virtio::guest_io;

/// Bytes of a virtio-blk sector, independent of the medium (virtio 1.2, 5.2.4).
pub const SECTOR: u64 = 512;

/// Why a file can't be a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Its metadata can't be read.
    #[error("disk image {name}: {source}")]
    Unknown {
        /// Number of the disk.
        name: String,
        /// The system's error.
        source: io::Error,
    },
    /// It is a directory, device, pipe or socket.
    #[error("disk image {0} is not a regular file")]
    NotAFile(String),
    /// Its size is not a multiple of a sector.
    #[error("disk image {name} has {size} bytes, not a multiple of {SECTOR}")]
    Size {
        /// Number of the disk.
        name: String,
        /// Its size in bytes.
        size: u64,
    },
    /// It is empty. For a drive without a medium, the command names no image.
    #[error("disk image {0} is empty")]
    Empty(String),
}

/// An image file whose type and size are checked.
#[derive(Debug)]
pub struct Image {
    file: File,
    sectors: u64,
}

impl Image {
    /// Checks an open file; `name` is for errors.
    pub fn new(file: File, name: String) -> Result<Self, ImageError> {
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(source) => return Err(ImageError::Unknown { name, source }),
        };
        if !metadata.is_file() {
            return Err(ImageError::NotAFile(name));
        }
        let size = metadata.len();
        if size == 0 {
            return Err(ImageError::Empty(name));
        }
        if !size.is_multiple_of(SECTOR) {
            return Err(ImageError::Size { name, size });
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

    /// Reads `len` bytes from byte `offset` into guest memory.
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
    use std::io::Write;

    use super::*;

    fn image(file: File) -> Result<Image, ImageError> {
        Image::new(file, "2".into())
    }

    fn file_of(size: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; size]).unwrap();
        file
    }

    #[test]
    fn an_image_of_whole_sectors_is_taken() {
        assert_eq!(image(file_of(4096)).unwrap().sectors(), 8);
    }

    #[test]
    fn a_ragged_or_empty_file_is_refused_by_name() {
        let error = image(file_of(513)).unwrap_err();
        assert!(matches!(error, ImageError::Size { size: 513, .. }));
        assert!(error.to_string().contains("image 2"), "{error}");
        assert!(matches!(image(file_of(0)), Err(ImageError::Empty(_))));
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), std::path::Path::new("/dev/null")] {
            let file = File::open(path).unwrap();
            assert!(matches!(image(file), Err(ImageError::NotAFile(_))));
        }
    }
}
