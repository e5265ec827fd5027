//! The state file of a snapshot.
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
//! The header and the checksum are checked before any of the body is used. A forged file passes the
//! checksum, so each device checks its own state again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: [u8; 8] = *b"HEARTHSS";
/// Increase this with every change of the body's structure.
const VERSION: u32 = 1;
const HEADER: usize = 20;
const MAX_BODY: usize = 4 << 20;

/// Why a state file can't be written or used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The file system returned an error.
    #[error("state file: {0}")]
    Io(#[from] io::Error),
    /// The file is shorter than its header says.
    #[error("state file truncated: {actual} bytes of {expected}")]
    Truncated {
        /// Bytes in the file.
        actual: usize,
        /// Bytes that the header announces.
        expected: usize,
    },
    /// The file is no state file.
    #[error("not a snapshot state file")]
    Magic,
    /// A state file of another format.
    #[error("state file of format version {0}, this sandbox reads {VERSION}")]
    Version(u32),
    /// The body is larger than any microVM's state.
    #[error("{0} bytes of state, the limit is {MAX_BODY}")]
    TooLarge(usize),
    /// The body has changed since it was written.
    #[error("state file: checksum mismatch")]
    Checksum,
    /// The body can't be decoded.
    #[error("state file: {0}")]
    Body(#[from] postcard::Error),
}

/// Replaces the content of `out` by `state` and flushes it.
pub fn write<T: Serialize>(out: &File, state: &T) -> Result<(), StateFileError> {
    let body = postcard::to_stdvec(state)?;
    let too_large = || StateFileError::TooLarge(body.len());
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
    out.set_len(0)?;
    out.write_all_at(&bytes, 0)?;
    Ok(out.sync_all()?)
}

/// Reads and checks a state file from its start, wherever the descriptor's position is.
pub fn read<T: DeserializeOwned>(file: &File) -> Result<T, StateFileError> {
    let bytes = read_limited(file)?;
    let truncated = |actual, expected| StateFileError::Truncated { actual, expected };
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
        return Err(StateFileError::Magic);
    }
    if number(8) != VERSION {
        return Err(StateFileError::Version(number(8)));
    }
    let len = number(12) as usize;
    if len > MAX_BODY || body.len() > len {
        return Err(StateFileError::TooLarge(len.max(body.len())));
    }
    if body.len() < len {
        return Err(truncated(bytes.len(), HEADER + len));
    }
    if crc32fast::hash(body) != number(16) {
        return Err(StateFileError::Checksum);
    }
    Ok(postcard::from_bytes(body)?)
}

/// Reads the whole file, but at most one byte more than the maximum size.
fn read_limited(file: &File) -> io::Result<Vec<u8>> {
    let limit = HEADER + MAX_BODY + 1;
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(limit);
    let mut bytes = vec![0; len.min(limit)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (tempfile::NamedTempFile, Vec<u8>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.as_file(), &(7u32, "seven".to_owned())).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        (file, bytes)
    }

    fn read_back(
        file: &tempfile::NamedTempFile,
        bytes: &[u8],
    ) -> Result<(u32, String), StateFileError> {
        std::fs::write(file.path(), bytes).unwrap();
        read(file.as_file())
    }

    #[test]
    fn what_was_written_is_read_and_replaces_what_was_there() {
        let (file, _) = written();
        std::fs::write(file.path(), vec![1; 100_000]).unwrap();
        write(file.as_file(), &(7u32, "seven".to_owned())).unwrap();
        let back: (u32, String) = read(file.as_file()).unwrap();
        assert_eq!(back, (7, "seven".to_owned()));
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let (file, good) = written();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(read_back(&file, &bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_truncated_or_longer_file_is_noticed() {
        let (file, good) = written();
        for len in 0..good.len() {
            assert!(read_back(&file, &good[..len]).is_err(), "{len} bytes");
        }
        assert!(read_back(&file, &[&good[..], b"x"].concat()).is_err());
    }

    #[test]
    fn an_oversized_body_is_refused_by_its_length_alone() {
        let (file, mut bad) = written();
        bad[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            read_back(&file, &bad),
            Err(StateFileError::TooLarge(_))
        ));
    }
}
