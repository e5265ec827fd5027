//! Detects that a file has changed since it was made, before an instance starts from it.
//!
//! When a snapshot is made, the SHA-256 of each of its files, and of the images that it uses, is written to
//! one more file beside them, the seal. No instance starts from files that this controller has not compared
//! with their seal. The comparison reads all files, so it is done once: in the background when the
//! controller starts, or before the first use. It also records each file's *stamp*: device, inode, size, and
//! the times of the last change. At each start the controller compares the stamps of the descriptors that
//! it passes to the sandbox, with one `fstat` each. Every write, truncation or replacement changes the
//! stamp. A new or removed hard link changes it too, for example when a version with the same code is
//! published or deleted; then the content is compared again.
//!
//! The seal protects against accidents, not against attackers: a process that may write to the data
//! directory may write another seal too. If the disk returns other bytes when a page is read again after
//! the comparison, only the file system or the device can detect that.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hex::hex;
use crate::locks::lock;

/// Name of the seal in a snapshot's folder.
const NAME: &str = "seal";
/// Maximum size of a seal, in bytes.
const MOST: u64 = 4096;
/// Number of bytes that are hashed at once; a multiple of the page size.
const BLOCK: usize = 1 << 16;
const PAGE: usize = 4096;

/// Why files must not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The seal is not valid.
    #[error("{}: the seal is not valid: {source}", path.display())]
    Seal {
        /// The seal.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The seal belongs to other files.
    #[error("{}: the seal belongs to other files", .0.display())]
    Foreign(PathBuf),
    /// A file has changed since it was made.
    #[error("{} has changed since it was made", .0.display())]
    Changed(PathBuf),
}

impl SealError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.into(),
            source,
        }
    }
}

/// The content of a seal.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    /// The snapshot's fingerprint.
    fingerprint: String,
    /// SHA-256 of each file, in the order in which a restore uses them.
    sums: Vec<String>,
}

/// Files with a common seal, and the result of their comparison.
#[derive(Debug)]
pub(crate) struct Sealed {
    seal: PathBuf,
    files: Vec<PathBuf>,
    fingerprint: String,
    /// The stamps of the seal and of the files when they were compared; `None` before that.
    verified: Mutex<Option<Vec<Stamp>>>,
}

impl Sealed {
    /// The files of a snapshot in `folder` and the images that it uses, in the order of a restore.
    pub(crate) fn new(folder: &Path, files: Vec<PathBuf>, fingerprint: String) -> Self {
        Self {
            seal: folder.join(NAME),
            files,
            fingerprint,
            verified: Mutex::default(),
        }
    }

    /// Writes the seal of new files. Reads all of them.
    pub(crate) fn seal(&self) -> Result<(), SealError> {
        let seal = Seal {
            fingerprint: self.fingerprint.clone(),
            sums: self.sums()?,
        };
        let bytes = serde_json::to_vec(&seal).expect("a seal is plain JSON");
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&self.seal)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_all()
            })
            .map_err(SealError::io(&self.seal))?;
        self.verify()
    }

    /// Compares the files with their seal, unless that was done before.
    pub(crate) fn verify(&self) -> Result<(), SealError> {
        if self.is_verified() {
            return Ok(());
        }
        let stamps = self.stamps().map_err(SealError::io(&self.seal))?;
        let bytes = read_seal(&self.seal).map_err(SealError::io(&self.seal))?;
        let seal: Seal = serde_json::from_slice(&bytes).map_err(|source| SealError::Seal {
            path: self.seal.clone(),
            source,
        })?;
        if seal.fingerprint != self.fingerprint || seal.sums.len() != self.files.len() {
            return Err(SealError::Foreign(self.seal.clone()));
        }
        let sums = self.sums()?;
        let other = seal.sums.iter().zip(&sums).position(|(was, is)| was != is);
        if let Some(index) = other {
            return Err(SealError::Changed(self.files[index].clone()));
        }
        *self.known() = Some(stamps);
        Ok(())
    }

    /// Whether the files have been compared and have not changed since.
    pub(crate) fn is_verified(&self) -> bool {
        let stamps = self.stamps();
        let known = self.known();
        matches!((&*known, stamps), (Some(known), Ok(stamps)) if *known == stamps)
    }

    /// Whether these open files are those that were compared, in their order. If only the change time of a
    /// file differs, because of a hard link or its permissions, the contents are compared again.
    pub(crate) fn vouches_for(&self, opened: &[File]) -> bool {
        let stamps: io::Result<Vec<Stamp>> = opened.iter().map(Stamp::of).collect();
        let Ok(stamps) = stamps else { return false };
        let agree = |same: fn(&Stamp, &Stamp) -> bool| {
            self.known().as_ref().is_some_and(|known| {
                known.len() == 1 + stamps.len()
                    && known[1..].iter().zip(&stamps).all(|(a, b)| same(a, b))
            })
        };
        let equal = |a: &Stamp, b: &Stamp| a == b;
        agree(equal) || (agree(Stamp::has_content_of) && self.verify().is_ok() && agree(equal))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Vec<Stamp>>> {
        lock(&self.verified)
    }

    fn stamps(&self) -> io::Result<Vec<Stamp>> {
        std::iter::once(&self.seal)
            .chain(&self.files)
            .map(|path| std::fs::metadata(path).map(|metadata| Stamp::from(&metadata)))
            .collect()
    }

    fn sums(&self) -> Result<Vec<String>, SealError> {
        self.files
            .iter()
            .map(|path| SUMS.of(path).map_err(SealError::io(path)))
            .collect()
    }
}

/// Checks a kernel or image against the SHA-256 that its builder has recorded.
pub(crate) fn check_artefact(path: &Path, sha256: &str) -> Result<(), SealError> {
    let plain = PLAIN_SUMS.of(path).map_err(SealError::io(path))?;
    if plain == sha256 {
        Ok(())
    } else {
        Err(SealError::Changed(path.into()))
    }
}

fn read_seal(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MOST), &mut bytes)?;
    Ok(bytes)
}

/// The attributes of a file that change whenever the file is changed or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }

    /// Whether only the change time differs: then the content should be the same. A process could have
    /// set back the other times, so the content has to be compared.
    fn has_content_of(&self, other: &Self) -> bool {
        let changed = other.changed;
        Self { changed, ..*self } == *other
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Cache of files' sums by path and stamp: many functions use the same runtime image, which is read only
/// once.
struct Sums {
    hash: fn(&File) -> io::Result<String>,
    known: Mutex<BTreeMap<PathBuf, (Stamp, String)>>,
}

static SUMS: Sums = Sums {
    hash: hash_pages,
    known: Mutex::new(BTreeMap::new()),
};
static PLAIN_SUMS: Sums = Sums {
    hash: hash_plain,
    known: Mutex::new(BTreeMap::new()),
};

impl Sums {
    /// The sum of a file. One file is read at a time, so concurrent callers for one file read it once.
    fn of(&self, path: &Path) -> io::Result<String> {
        let mut known = lock(&self.known);
        let file = File::open(path)?;
        let stamp = Stamp::of(&file)?;
        if let Some((of, sum)) = known.get(path)
            && *of == stamp
        {
            return Ok(sum.clone());
        }
        let sum = (self.hash)(&file)?;
        // If the file was written to meanwhile, the sum is not that of any of its states.
        if !Stamp::of(&file)?.has_content_of(&stamp) {
            return Err(io::Error::other("the file changes while it is read"));
        }
        // Forget files that were deleted with their deploys.
        known.retain(|path, _| path.exists());
        known.insert(path.into(), (stamp, sum.clone()));
        Ok(sum)
    }
}

/// Hashes the whole content.
fn hash_plain(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    loop {
        match file.read_at(&mut block, at) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(count) => {
                hash.update(&block[..count]);
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Hashes the length and every page that is not zero, with its number. Memory files consist mostly of
/// holes, which need not be read. Whether a page of zeros is a hole does not matter for the sum.
fn hash_pages(file: &File) -> io::Result<String> {
    let len = file.metadata()?.len();
    let mut hash = Sha256::new();
    hash.update(len.to_le_bytes());
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    while let Some(data) = next_data(file, at)?.filter(|data| *data < len) {
        at = data - data % PAGE as u64;
        let count = usize::try_from(len - at).unwrap_or(BLOCK).min(BLOCK);
        file.read_exact_at(&mut block[..count], at)?;
        for (index, page) in (0..).zip(block[..count].chunks(PAGE)) {
            if page.iter().any(|byte| *byte != 0) {
                hash.update((at / PAGE as u64 + index).to_le_bytes());
                hash.update(page);
            }
        }
        at += count as u64;
    }
    Ok(hex(&hash.finalize()))
}

/// The offset of the next data from `at` on; `at` itself if the file system does not support holes.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    let from = i64::try_from(at).map_err(io::Error::other)?;
    match lseek64(file, from, Whence::SeekData) {
        Ok(data) => Ok(Some(data.cast_unsigned())),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) => Ok(Some(at)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
