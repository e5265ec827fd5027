//! Notices that a file which instances start from is not what it was when it was made, before
//! anything is started from it.
//!
//! When a snapshot is made, the SHA-256 of each of its files and of the images under it goes into one
//! more file beside them, the seal. Nothing is started from files that were not compared with their
//! seal by this controller. That takes as long as reading them, so it is done once: in the background
//! when the controller starts, or right before the first use. From then on the files are known by
//! their *stamp*: device, inode, size, and the times of the last change. Any write, truncation or
//! replacement makes another stamp, and is seen at the next start, on the very descriptors that are
//! passed to the sandbox, for the price of an `fstat` each. So does a name that an image gets or loses,
//! when a version of the same code is published or deleted: then the content is compared once more.
//!
//! This is against accidents and mix-ups: who may write to the data directory may write another
//! seal as well. What a disk returns otherwise than it was written, when a page is read again after
//! the comparison, is for the file system or the device to notice.

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
/// Longest seal that is read.
const MOST: u64 = 4096;
/// Bytes that are hashed at once; a multiple of the page.
const BLOCK: usize = 1 << 16;
const PAGE: usize = 4096;

/// Why files are not to be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// One can't be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The seal itself is none.
    #[error("{}: no seal: {source}", path.display())]
    Seal {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It was made for something else.
    #[error("{}: a seal of something else", .0.display())]
    Foreign(PathBuf),
    /// A file is not what it was.
    #[error("{} is not what it was made as", .0.display())]
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

/// What is written beside the files.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    /// Of what the files were made.
    fingerprint: String,
    /// SHA-256 of each, in the order that a restore wants them in.
    sums: Vec<String>,
}

/// Files that belong together, and what is known of them.
#[derive(Debug)]
pub(crate) struct Sealed {
    seal: PathBuf,
    files: Vec<PathBuf>,
    fingerprint: String,
    /// The stamps under which they were found right, and the seal's.
    verified: Mutex<Option<Vec<Stamp>>>,
}

impl Sealed {
    /// The files of a snapshot in `folder` and those it needs, in the order that a restore wants
    /// them in.
    pub(crate) fn new(folder: &Path, files: Vec<PathBuf>, fingerprint: String) -> Self {
        Self {
            seal: folder.join(NAME),
            files,
            fingerprint,
            verified: Mutex::default(),
        }
    }

    /// Seals files that were just made. Reads them all.
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

    /// Compares the files with their seal, as far as that was not done before.
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

    /// Whether the files were compared and have not changed since.
    pub(crate) fn is_verified(&self) -> bool {
        let stamps = self.stamps();
        let known = self.known();
        matches!((&*known, stamps), (Some(known), Ok(stamps)) if *known == stamps)
    }

    /// Whether these, opened in their order, are the files that were compared. Reads those of which
    /// nothing has changed but how they are called, or by whom they may be read.
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

/// Checks that a kernel or image is what its builder wrote down of it: its plain SHA-256.
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

/// What changes with every change of a file.
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

    /// Whether nothing was written between the two, going by what can be set back as well.
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

/// Sums of files by path, with the stamp that they hold for: a runtime's image is under the
/// snapshots of many functions, and is read once.
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
    /// The sum of a file. One file is read at a time: whoever waits for the same one finds it done.
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
        // Written to meanwhile: the sum is that of no state it was ever in.
        if !Stamp::of(&file)?.has_content_of(&stamp) {
            return Err(io::Error::other("it changes while it is read"));
        }
        // Files come and go with deploys: what is not there any more is forgotten.
        known.retain(|path, _| path.exists());
        known.insert(path.into(), (stamp, sum.clone()));
        Ok(sum)
    }
}

/// Hashes everything.
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

/// Hashes the length and every page that is not zero, with its number. Memory files are holes for
/// the most part, and where a page of zeros is a hole is no property of the content.
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

/// Where data begins, from `at` on; where a file system knows no holes, at `at`.
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
