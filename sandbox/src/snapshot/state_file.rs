//! The state file.
//!
//! ```text
//! offset  size  field
//!      0     8  magic, "HEARTHSS"
//!      8     4  format version, little-endian
//!     12     4  length of the body, little-endian, at most 4 MiB
//!     16     4  CRC-32 of the body
//!     20     …  body: MicroVmState in postcard's format
//! ```
//!
//! The file is checked as a whole before any of it is used. What the body says of devices is
//! checked again by the devices: a state file may be forged.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: [u8; 8] = *b"HEARTHSS";
/// Changes with every change of the body's shape.
const VERSION: u32 = 1;
const HEADER: usize = 20;
const MAX_BODY: usize = 4 << 20;

/// Why a state file can't be written or used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Shorter than its header says.
    #[error("{path}: truncated: {actual} bytes of {expected}")]
    Truncated {
        /// Which file.
        path: PathBuf,
        /// Bytes there.
        actual: usize,
        /// Bytes that should be there.
        expected: usize,
    },
    /// Not a state file.
    #[error("{0}: not a snapshot state file")]
    Magic(PathBuf),
    /// Another format.
    #[error("{path}: format version {found}, this sandbox reads {VERSION}")]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Larger than any microVM's state.
    #[error("{path}: {len} bytes of state, the limit is {MAX_BODY}")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Announced or actual size.
        len: usize,
    },
    /// A byte has changed.
    #[error("{0}: checksum mismatch")]
    Checksum(PathBuf),
    /// The body does not parse.
    #[error("{path}: {source}")]
    Body {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        source: postcard::Error,
    },
}

/// Writes `state` beside `path`, flushes it and moves it into place.
pub fn write<T: Serialize>(path: &Path, state: &T) -> Result<(), StateFileError> {
    let body = postcard::to_stdvec(state).map_err(|source| StateFileError::Body {
        path: path.into(),
        source,
    })?;
    let too_large = || StateFileError::TooLarge {
        path: path.into(),
        len: body.len(),
    };
    if body.len() > MAX_BODY {
        return Err(too_large());
    }
    let len = u32::try_from(body.len()).map_err(|_| too_large())?;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    let in_progress = beside(path);
    let result = File::create(&in_progress)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&in_progress, path));
    result.map_err(|source| {
        remove_after_failure(&in_progress);
        StateFileError::Io {
            path: path.into(),
            source,
        }
    })
}

/// Reads and checks a state file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, StateFileError> {
    let io = |source| StateFileError::Io {
        path: path.into(),
        source,
    };
    let mut bytes = Vec::new();
    let limit = (HEADER + MAX_BODY + 1) as u64;
    File::open(path)
        .map_err(io)?
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    let truncated = |actual, expected| StateFileError::Truncated {
        path: path.into(),
        actual,
        expected,
    };
    let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(truncated(bytes.len(), HEADER));
    };
    let number = |at: usize| {
        u32::from_le_bytes(
            header[at..at + 4]
                .try_into()
                .expect("the header has four bytes here"),
        )
    };
    if header[..8] != MAGIC {
        return Err(StateFileError::Magic(path.into()));
    }
    if number(8) != VERSION {
        return Err(StateFileError::Version {
            path: path.into(),
            found: number(8),
        });
    }
    let len = number(12) as usize;
    if len > MAX_BODY || body.len() > len {
        return Err(StateFileError::TooLarge {
            path: path.into(),
            len: len.max(body.len()),
        });
    }
    if body.len() < len {
        return Err(truncated(bytes.len(), HEADER + len));
    }
    if crc32fast::hash(body) != number(16) {
        return Err(StateFileError::Checksum(path.into()));
    }
    postcard::from_bytes(body).map_err(|source| StateFileError::Body {
        path: path.into(),
        source,
    })
}

/// The name under which a file is written before it is whole.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    path.with_file_name(name)
}

/// Nothing half-made stays.
pub(super) fn remove_after_failure(path: &Path) {
    if let Err(e) = fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        eprintln!("{}: left behind: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write(&path, &(7u32, "seven".to_owned())).unwrap();
        (dir, path)
    }

    #[test]
    fn what_was_written_is_read() {
        let (dir, path) = written();
        assert_eq!(
            read::<(u32, String)>(&path).unwrap(),
            (7, "seven".to_owned())
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing else is left there"
        );
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let (_dir, path) = written();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(&path, &bad).unwrap();
            assert!(read::<(u32, String)>(&path).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_truncated_or_longer_file_is_noticed() {
        let (_dir, path) = written();
        let good = fs::read(&path).unwrap();
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            assert!(read::<(u32, String)>(&path).is_err(), "{len} bytes");
        }
        fs::write(&path, [&good[..], b"x"].concat()).unwrap();
        assert!(read::<(u32, String)>(&path).is_err());
    }

    #[test]
    fn an_oversized_body_is_refused_by_its_length_alone() {
        let (_dir, path) = written();
        let mut bad = fs::read(&path).unwrap();
        bad[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        fs::write(&path, &bad).unwrap();
        assert!(matches!(
            read::<(u32, String)>(&path),
            Err(StateFileError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("x")).unwrap();
        assert!(write(&path, &1u8).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
