//! A ZIP archive, checked as a whole before anything is unpacked.
//!
//! The central directory decides. Each entry's local header must agree with it: programs differ in
//! which of the two they read, and only a hostile archive shows different files to different
//! programs. Entries must not share bytes, because sharing is how a small archive expands to
//! petabytes.

use std::collections::HashMap;
use std::ops::Range;

use flate2::{Decompress, FlushDecompress, Status};

use super::records::{self, Central, Local};
use super::tree::{MAX_TARGET_BYTES, Node, Tree};
use super::{FunctionError, MAX_ENTRIES, MAX_UNZIPPED_BYTES, MAX_ZIPPED_BYTES, name};

const STORED: u16 = 0;
const DEFLATED: u16 = 8;
const AES_ENCRYPTED: u16 = 99;
/// Bits 0 (encrypted), 6 (strong encryption), 13 (masked headers).
const ENCRYPTION_FLAGS: u16 = 1 | 1 << 6 | 1 << 13;
/// Bit 3: sizes and checksum follow the data, and are zero in the local header.
const SIZES_FOLLOW: u16 = 1 << 3;

const MADE_ON_UNIX: u8 = 3;
const MADE_ON_MACOS: u8 = 19;
/// `S_IFMT` and its values.
const TYPE_MASK: u32 = 0o170_000;
const TYPE_FOLDER: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_LINK: u32 = 0o120_000;

/// An archive that has passed every check except unpacking its files.
#[derive(Debug)]
pub(super) struct Package<'a> {
    data: &'a [u8],
    tree: Tree,
    files: HashMap<String, Stored>,
}

/// The location of a file's data, and its declared size and checksum.
#[derive(Debug, Clone)]
struct Stored {
    data: Range<usize>,
    method: u16,
    unpacked: u64,
    crc: u32,
}

impl<'a> Package<'a> {
    /// Checks the archive `data`.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, FunctionError> {
        let size = data.len() as u64;
        if size > MAX_ZIPPED_BYTES {
            return Err(FunctionError::ZippedTooLarge {
                size,
                limit: MAX_ZIPPED_BYTES,
            });
        }
        let (directory, count) = directory(data)?;
        let mut package = Self {
            data,
            tree: Tree::default(),
            files: HashMap::new(),
        };
        let mut used = Vec::with_capacity(count);
        let mut declared = 0_u64;
        let mut at = 0;
        for _ in 0..count {
            let entry = records::central(&data[directory.clone()], at)?;
            at = entry.next;
            let path = name::parse(entry.name)?;
            declared = declared.saturating_add(entry.unpacked);
            if declared > MAX_UNZIPPED_BYTES {
                let limit = MAX_UNZIPPED_BYTES;
                return Err(FunctionError::UnzippedTooLarge {
                    size: declared,
                    limit,
                });
            }
            let (local, stored) = locate(data, directory.start, &path, &entry)?;
            used.push((local.start, stored.data.end, path.clone()));
            package.add(path, &entry, stored)?;
        }
        if at != directory.len() {
            return Err(FunctionError::damaged(
                "its directory is longer than its entries",
            ));
        }
        refuse_overlap(used)?;
        package.tree = package.tree.finish()?;
        Ok(package)
    }

    /// The files, folders and links of the archive.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Unpacks a file.
    pub(super) fn content(&self, path: &str) -> Result<Vec<u8>, FunctionError> {
        let stored = self
            .files
            .get(path)
            .expect("the tree's files are those of the archive");
        unpack(self.data, path, stored)
    }

    fn add(
        &mut self,
        path: String,
        entry: &Central<'_>,
        stored: Stored,
    ) -> Result<(), FunctionError> {
        let unix = matches!(entry.made_on, MADE_ON_UNIX | MADE_ON_MACOS);
        let mode = if unix { entry.attributes >> 16 } else { 0 };
        let folder_name = entry.name.ends_with(b"/");
        let node = match mode & TYPE_MASK {
            TYPE_FOLDER => Node::Folder,
            0 | TYPE_FILE if folder_name => Node::Folder,
            0 | TYPE_FILE => Node::File {
                size: stored.unpacked,
                executable: mode & 0o111 != 0,
            },
            TYPE_LINK if !folder_name => {
                if stored.unpacked > MAX_TARGET_BYTES {
                    let why = "is longer than 4095 bytes";
                    return Err(FunctionError::BadLink {
                        name: path,
                        target: String::new(),
                        why,
                    });
                }
                let target = unpack(self.data, &path, &stored)?;
                let target = String::from_utf8(target).map_err(|bytes| FunctionError::BadLink {
                    name: path.clone(),
                    target: String::from_utf8_lossy(bytes.as_bytes()).into_owned(),
                    why: "is not UTF-8",
                })?;
                Node::Link { target }
            }
            _ => return Err(FunctionError::SpecialFile { name: path, mode }),
        };
        if node == Node::Folder && stored.unpacked != 0 {
            let what = "a folder has content";
            return Err(FunctionError::BadContent { name: path, what });
        }
        let is_file = matches!(node, Node::File { .. });
        self.tree.add(&path, node)?;
        if is_file {
            self.files.insert(path, stored);
        }
        Ok(())
    }
}

/// The range of the central directory, and its number of entries.
fn directory(data: &[u8]) -> Result<(Range<usize>, usize), FunctionError> {
    let found = records::directory(data)?;
    if found.offset.checked_add(found.size) != Some(found.end) {
        return Err(FunctionError::damaged(format!(
            "its directory of {} bytes at {} does not end at its end record at {}",
            found.size, found.offset, found.end
        )));
    }
    let count = usize::try_from(found.entries).unwrap_or(usize::MAX);
    if count > MAX_ENTRIES {
        return Err(FunctionError::TooManyEntries {
            count,
            limit: MAX_ENTRIES,
        });
    }
    let place = |value| usize::try_from(value).map_err(|_| FunctionError::damaged("an offset"));
    Ok((place(found.offset)?..place(found.end)?, count))
}

/// Finds an entry's local header and data, and compares the header with the directory.
fn locate(
    data: &[u8],
    directory: usize,
    path: &str,
    entry: &Central<'_>,
) -> Result<(Range<usize>, Stored), FunctionError> {
    let name = || path.to_owned();
    // Bytes in or after the central directory belong to no entry.
    let local = records::local(&data[..directory], entry.local_offset)?;
    if entry.method == AES_ENCRYPTED || (entry.flags | local.flags) & ENCRYPTION_FLAGS != 0 {
        return Err(FunctionError::Encrypted { name: name() });
    }
    if !matches!(entry.method, STORED | DEFLATED) {
        return Err(FunctionError::UnknownMethod {
            name: name(),
            method: entry.method,
        });
    }
    if !agree(entry, &local) {
        let what = format!("{path:?} differs between the directory and its own header");
        return Err(FunctionError::Damaged { what });
    }
    if entry.method == STORED && entry.packed != entry.unpacked {
        let what = "it is stored as it is, but has two sizes";
        return Err(FunctionError::BadContent { name: name(), what });
    }
    let end = usize::try_from(entry.packed)
        .ok()
        .and_then(|packed| local.data.checked_add(packed))
        .filter(|end| *end <= directory)
        .ok_or_else(|| FunctionError::damaged(format!("the data of {path:?} is cut off")))?;
    let start = usize::try_from(entry.local_offset).expect("the header was read there");
    let stored = Stored {
        data: local.data..end,
        method: entry.method,
        unpacked: entry.unpacked,
        crc: entry.crc,
    };
    Ok((start..local.data, stored))
}

fn agree(entry: &Central<'_>, local: &Local<'_>) -> bool {
    let same = |own: u64, directory: u64| {
        own == directory || (local.flags & SIZES_FOLLOW != 0 && own == 0)
    };
    entry.name == local.name
        && entry.method == local.method
        && same(local.packed, entry.packed)
        && same(local.unpacked, entry.unpacked)
        && same(u64::from(local.crc), u64::from(entry.crc))
}

fn refuse_overlap(mut used: Vec<(usize, usize, String)>) -> Result<(), FunctionError> {
    used.sort_unstable();
    for pair in used.windows(2) {
        if let [(_, end, _), (start, _, name)] = pair
            && start < end
        {
            return Err(FunctionError::Overlap { name: name.clone() });
        }
    }
    Ok(())
}

/// Unpacks one entry into memory. The result never exceeds the declared size, which is within the
/// limits.
fn unpack(data: &[u8], path: &str, stored: &Stored) -> Result<Vec<u8>, FunctionError> {
    let bad = |what| FunctionError::BadContent {
        name: path.to_owned(),
        what,
    };
    let packed = &data[stored.data.clone()];
    let bytes = if stored.method == STORED {
        packed.to_vec()
    } else {
        let size = usize::try_from(stored.unpacked).map_err(|_| bad("its size is impossible"))?;
        inflate(packed, size).map_err(bad)?
    };
    if crc32fast::hash(&bytes) != stored.crc {
        return Err(bad("its checksum is wrong"));
    }
    Ok(bytes)
}

fn inflate(packed: &[u8], size: usize) -> Result<Vec<u8>, &'static str> {
    // One byte more than declared, to find out whether there is more. The buffer grows with the
    // real output, so a false size alone costs no memory.
    let limit = size + 1;
    let mut bytes = Vec::with_capacity(limit.min(packed.len().saturating_mul(4)).max(64));
    let mut inflater = Decompress::new(false);
    loop {
        let consumed = usize::try_from(inflater.total_in()).unwrap_or(usize::MAX);
        let before = (consumed, bytes.len());
        if bytes.len() == bytes.capacity() {
            let more = bytes.len().min(limit - bytes.len());
            bytes.reserve_exact(more);
        }
        let status = inflater
            .decompress_vec(&packed[consumed..], &mut bytes, FlushDecompress::None)
            .map_err(|_| "its compressed data are damaged")?;
        if bytes.len() > size {
            return Err("more comes out than the archive declares");
        }
        let consumed = usize::try_from(inflater.total_in()).unwrap_or(usize::MAX);
        match status {
            Status::StreamEnd if bytes.len() < size => {
                return Err("less comes out than the archive declares");
            }
            Status::StreamEnd if consumed != packed.len() => {
                return Err("its compressed data have something behind them");
            }
            Status::StreamEnd => return Ok(bytes),
            _ if before == (consumed, bytes.len()) && bytes.len() < bytes.capacity() => {
                return Err("its compressed data are cut off");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
