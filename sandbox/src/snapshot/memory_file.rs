//! The memory file: guest RAM, one range after the other, with holes where pages are zero.
//!
//! Most of a guest's RAM has never been touched, and reading an untouched page would make the host
//! allocate it. So only two kinds of pages are read: those that this process has written to
//! (`/proc/self/pagemap`, opened before the process enters its jail), and the data extents of the
//! file that the memory was restored from.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::unistd::{Whence, lseek64};
use vm_memory::{Bytes, GuestAddress};

use super::unique::for_clones;
use crate::memory::{GuestMemory, PAGE, Slot, slots};

/// Maximum number of pages that one call writes.
const RUN: usize = 256;
/// Bits of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst): the page is present, is
/// swapped out, belongs to a file or is shared.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_BACKED: u64 = 1 << 61;

/// Where [`write()`] looks up the pages that may have content.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// This process's `/proc/self/pagemap`.
    pub pagemap: &'a File,
    /// The file that the memory is a private view of, if it was restored.
    pub base: Option<&'a File>,
}

/// Replaces the content of `out` by all of `memory` and flushes it, except for what must differ in each
/// clone: pages in `zero_pages` (sorted) are written as zeros, and OpenSSL's generators are marked as used
/// up. Refuses the file that the memory is a private view of, and leaves that file as it is.
pub fn write(
    out: &File,
    memory: &GuestMemory,
    from: Sources<'_>,
    zero_pages: &[u64],
) -> io::Result<()> {
    if let Some(base) = from.base
        && is_same_file(out, base)?
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "this is the memory file that the running microVM maps",
        ));
    }
    out.set_len(0)?;
    let mut offset = 0;
    for slot in slots(memory) {
        let pages = usize::try_from(slot.len).expect("x86_64 has 64-bit addresses") / PAGE;
        let mut wanted = vec![false; pages];
        mark_own_pages(from.pagemap, &slot, &mut wanted)?;
        if let Some(base) = from.base {
            mark_data(base, offset, &mut wanted)?;
        }
        for run in runs(&wanted) {
            write_run(out, memory, &slot, offset, run, zero_pages)?;
        }
        offset += slot.len;
    }
    out.set_len(offset)?;
    out.sync_all()
}

fn is_same_file(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Marks pages that this process has written to.
fn mark_own_pages(pagemap: &File, slot: &Slot, wanted: &mut [bool]) -> io::Result<()> {
    const BATCH: usize = 4096;
    let first = slot.host / PAGE as u64;
    let mut bytes = vec![0; BATCH * 8];
    for (batch, pages) in wanted.chunks_mut(BATCH).enumerate() {
        let bytes = &mut bytes[..pages.len() * 8];
        pagemap.read_exact_at(bytes, (first + (batch * BATCH) as u64) * 8)?;
        for (page, entry) in pages.iter_mut().zip(bytes.chunks_exact(8)) {
            let entry = u64::from_ne_bytes(entry.try_into().expect("chunks of eight"));
            *page |= entry & SWAPPED != 0 || (entry & PRESENT != 0 && entry & FILE_BACKED == 0);
        }
    }
    Ok(())
}

/// Marks pages for which the file has data.
fn mark_data(file: &File, start: u64, wanted: &mut [bool]) -> io::Result<()> {
    let end = start + (wanted.len() * PAGE) as u64;
    let mut at = start;
    while at < end {
        let Some(data) = seek(file, at, Whence::SeekData)?.filter(|data| *data < end) else {
            return Ok(());
        };
        let hole = seek(file, data, Whence::SeekHole)?.unwrap_or(end).min(end);
        wanted[page_index(data - start)..page_index((hole - start).next_multiple_of(PAGE as u64))]
            .fill(true);
        at = hole;
    }
    Ok(())
}

fn page_index(offset: u64) -> usize {
    usize::try_from(offset).expect("x86_64 has 64-bit addresses") / PAGE
}

/// The next offset of this kind; `None` if there is no more data.
fn seek(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(io::Error::other)?;
    match lseek64(file, from, whence) {
        Ok(at) => Ok(Some(at.cast_unsigned())),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Ranges of consecutive wanted pages, at most [`RUN`] pages each.
fn runs(wanted: &[bool]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + wanted[at..].iter().position(|w| *w)?;
        let len = wanted[start..].iter().take(RUN).take_while(|w| **w).count();
        at = start + len;
        Some(start..at)
    })
}

/// Writes those pages of a run that are not all zero.
fn write_run(
    out: &File,
    memory: &GuestMemory,
    slot: &Slot,
    file_start: u64,
    run: Range<usize>,
    zero_pages: &[u64],
) -> io::Result<()> {
    let mut bytes = vec![0; run.len() * PAGE];
    let start = (run.start * PAGE) as u64;
    memory
        .read_slice(&mut bytes, GuestAddress(slot.guest + start))
        .map_err(io::Error::other)?;
    for (page, address) in bytes
        .chunks_exact_mut(PAGE)
        .zip((slot.guest + start..).step_by(PAGE))
    {
        for_clones(page, address, zero_pages);
    }
    let filled: Vec<bool> = bytes
        .chunks_exact(PAGE)
        .map(|page| page.iter().any(|b| *b != 0))
        .collect();
    for part in runs(&filled) {
        let at = file_start + start + (part.start * PAGE) as u64;
        out.write_all_at(&bytes[part.start * PAGE..part.end * PAGE], at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::memory::{self, MemorySize};

    fn size() -> MemorySize {
        MemorySize::from_mib(128).unwrap()
    }

    fn save(path: &Path, memory: &GuestMemory, base: Option<&File>) -> io::Result<()> {
        let out = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let pagemap = File::open("/proc/self/pagemap")?;
        let from = Sources {
            pagemap: &pagemap,
            base,
        };
        write(&out, memory, from, &[])
    }

    #[test]
    fn what_was_written_comes_back_and_the_rest_takes_no_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let booted = memory::anonymous(size()).unwrap();
        let places = [0, 4096 * 300 + 5, size().bytes() - 1];
        for place in places {
            booted.write_obj(9u8, GuestAddress(place)).unwrap();
        }
        save(&path, &booted, None).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(meta.len(), size().bytes());
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        let view = memory::private_view(size(), File::open(&path).unwrap()).unwrap();
        for place in places {
            assert_eq!(view.read_obj::<u8>(GuestAddress(place)).unwrap(), 9);
        }
    }

    #[test]
    fn a_snapshot_of_a_restored_microvm_has_old_and_new_pages() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        let booted = memory::anonymous(size()).unwrap();
        booted.write_obj(1u8, GuestAddress(4096)).unwrap();
        booted.write_obj(1u8, GuestAddress(8192)).unwrap();
        save(&first, &booted, None).unwrap();
        let base = File::open(&first).unwrap();
        let restored = memory::private_view(size(), base.try_clone().unwrap()).unwrap();
        restored.write_obj(2u8, GuestAddress(8192)).unwrap();
        restored.write_obj(3u8, GuestAddress(1 << 20)).unwrap();
        save(&second, &restored, Some(&base)).unwrap();
        let view = memory::private_view(size(), File::open(&second).unwrap()).unwrap();
        for (place, value) in [(4096, 1u8), (8192, 2), (1 << 20, 3), (2 << 20, 0)] {
            assert_eq!(view.read_obj::<u8>(GuestAddress(place)).unwrap(), value);
        }
    }

    #[test]
    fn the_file_that_is_mapped_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let booted = memory::anonymous(size()).unwrap();
        booted.write_obj(7u8, GuestAddress(4096)).unwrap();
        save(&path, &booted, None).unwrap();
        let base = File::open(&path).unwrap();
        let restored = memory::private_view(size(), base.try_clone().unwrap()).unwrap();
        assert!(save(&path, &restored, Some(&base)).is_err());
        assert_eq!(restored.read_obj::<u8>(GuestAddress(4096)).unwrap(), 7);
    }

    #[test]
    fn what_a_file_held_before_is_gone_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        std::fs::write(&path, vec![5; 3 << 20]).unwrap();
        save(&path, &memory::anonymous(size()).unwrap(), None).unwrap();
        let view = memory::private_view(size(), File::open(&path).unwrap()).unwrap();
        assert_eq!(view.read_obj::<u8>(GuestAddress(1 << 20)).unwrap(), 0);
    }
}
