//! Moves bytes between files and guest memory without a buffer in between, and between guest memory
//! and small host buffers. This is the only file under `devices` that makes system calls on raw
//! addresses.
//!
//! The guest may change its memory at any time. So no Rust slice ever refers to it: either the
//! kernel copies, or `vm-memory`'s volatile accesses do.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::chain::Segment;
use crate::devices::GuestMemory;

/// Maximum number of pieces in one system call. Longer buffers take several calls.
const PIECES: usize = 64;

/// Why bytes could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum GuestIoError {
    /// A segment is outside of RAM.
    #[error("guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
    /// The segments hold fewer bytes than requested.
    #[error("{missing} bytes past the end of the buffer")]
    Short {
        /// Bytes missing.
        missing: usize,
    },
}

/// Reads from the stream `fd` into `segments`, beginning `skip` bytes into them, at most `len`
/// bytes. Like `readv`: fewer bytes than asked for are normal, zero is the end of the stream.
pub fn read_stream(
    fd: BorrowedFd<'_>,
    memory: &GuestMemory,
    segments: &[Segment],
    skip: usize,
    len: usize,
) -> io::Result<usize> {
    let pieces = Pieces::new(memory, segments, skip, len)?;
    // SAFETY: every piece is a range inside a mapped guest memory region that outlives the call
    // (`memory` is borrowed); guest memory has no Rust references, so the kernel may write to it.
    check(unsafe { libc::readv(fd.as_raw_fd(), pieces.as_ptr(), pieces.count()) })
}

/// Like [`read_stream`], but fills `before` first.
pub fn read_stream_after(
    fd: BorrowedFd<'_>,
    before: &mut [u8],
    memory: &GuestMemory,
    segments: &[Segment],
    len: usize,
) -> io::Result<usize> {
    let pieces = Pieces::after(before.as_mut_ptr(), before.len(), memory, segments, 0, len)?;
    // SAFETY: as in `read_stream`; the first piece is borrowed for writing.
    check(unsafe { libc::readv(fd.as_raw_fd(), pieces.as_ptr(), pieces.count()) })
}

/// Writes bytes of `segments` to the stream `fd`, beginning `skip` bytes into them, at most `len`.
pub fn write_stream(
    fd: BorrowedFd<'_>,
    memory: &GuestMemory,
    segments: &[Segment],
    skip: usize,
    len: usize,
) -> io::Result<usize> {
    write_stream_after(fd, &[], memory, segments, skip, len)
}

/// Like [`write_stream`], but sends `before` first.
pub fn write_stream_after(
    fd: BorrowedFd<'_>,
    before: &[u8],
    memory: &GuestMemory,
    segments: &[Segment],
    skip: usize,
    len: usize,
) -> io::Result<usize> {
    let host = before.as_ptr().cast_mut();
    let pieces = Pieces::after(host, before.len(), memory, segments, skip, len)?;
    let message = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: pieces.as_ptr().cast_mut(),
        msg_iovlen: pieces.len,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    };
    // MSG_NOSIGNAL: if the host's end is closed, this returns an error and raises no SIGPIPE.
    // SAFETY: as in `read_stream`; the kernel only reads, and does not write to `msg_iov`.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })
}

/// Fills `segments`, beginning `skip` bytes into them, with `len` bytes of the file at `offset`.
/// Reads all of them or returns an error.
pub fn read_file_exact(
    fd: BorrowedFd<'_>,
    memory: &GuestMemory,
    segments: &[Segment],
    skip: usize,
    len: usize,
    offset: u64,
) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let pieces = Pieces::new(memory, segments, skip + done, len - done)?;
        let position = offset
            .checked_add(done as u64)
            .and_then(|at| i64::try_from(at).ok())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: as in `read_stream`.
        let result = check(unsafe {
            libc::preadv(fd.as_raw_fd(), pieces.as_ptr(), pieces.count(), position)
        });
        match result {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Copies guest memory to `bytes`, beginning `skip` bytes into `segments`.
pub fn copy_from_guest(
    memory: &GuestMemory,
    segments: &[Segment],
    skip: usize,
    bytes: &mut [u8],
) -> Result<(), GuestIoError> {
    let mut done = 0;
    for (address, len) in Parts::new(segments, skip, bytes.len()) {
        memory.read_slice(&mut bytes[done..done + len], address)?;
        done += len;
    }
    all_of(done, bytes.len())
}

/// Copies `bytes` to guest memory, beginning `skip` bytes into `segments`.
pub fn copy_to_guest(
    memory: &GuestMemory,
    segments: &[Segment],
    skip: usize,
    bytes: &[u8],
) -> Result<(), GuestIoError> {
    let mut done = 0;
    for (address, len) in Parts::new(segments, skip, bytes.len()) {
        memory.write_slice(&bytes[done..done + len], address)?;
        done += len;
    }
    all_of(done, bytes.len())
}

fn all_of(done: usize, wanted: usize) -> Result<(), GuestIoError> {
    match wanted - done {
        0 => Ok(()),
        missing => Err(GuestIoError::Short { missing }),
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The address ranges that hold `len` bytes of `segments` after the first `skip`.
struct Parts<'a> {
    segments: std::slice::Iter<'a, Segment>,
    skip: usize,
    left: usize,
}

impl<'a> Parts<'a> {
    fn new(segments: &'a [Segment], skip: usize, len: usize) -> Self {
        Self {
            segments: segments.iter(),
            skip,
            left: len,
        }
    }
}

impl Iterator for Parts<'_> {
    type Item = (GuestAddress, usize);

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let segment = self.segments.next()?;
            let len = segment.len as usize;
            if self.skip >= len {
                self.skip -= len;
                continue;
            }
            let take = (len - self.skip).min(self.left);
            // Chains are checked to be in RAM, so this sum does not overflow. If it did wrap
            // around, the access itself would fail.
            let address = GuestAddress(segment.address.0.wrapping_add(self.skip as u64));
            self.skip = 0;
            self.left -= take;
            return Some((address, take));
        }
        None
    }
}

/// Up to [`PIECES`] ranges of this process's memory, most of them guest RAM, as iovecs.
struct Pieces {
    pieces: [libc::iovec; PIECES],
    len: usize,
}

impl Pieces {
    fn new(
        memory: &GuestMemory,
        segments: &[Segment],
        skip: usize,
        len: usize,
    ) -> io::Result<Self> {
        Self::after(std::ptr::null_mut(), 0, memory, segments, skip, len)
    }

    /// With `host_len` bytes of the sandbox's own memory in front.
    fn after(
        host: *mut u8,
        host_len: usize,
        memory: &GuestMemory,
        segments: &[Segment],
        skip: usize,
        len: usize,
    ) -> io::Result<Self> {
        const EMPTY: libc::iovec = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut pieces = [EMPTY; PIECES];
        let mut used = 0;
        if host_len > 0 {
            pieces[0] = libc::iovec {
                iov_base: host.cast(),
                iov_len: host_len,
            };
            used = 1;
        }
        'fill: for (address, len) in Parts::new(segments, skip, len) {
            // A range that crosses from one region of RAM to the next gives two slices.
            for slice in GuestMemoryBackend::get_slices(memory, address, len) {
                let slice = slice.map_err(io::Error::other)?;
                if used == PIECES {
                    break 'fill;
                }
                let guard = slice.ptr_guard_mut();
                pieces[used] = libc::iovec {
                    iov_base: guard.as_ptr().cast(),
                    iov_len: guard.len(),
                };
                used += 1;
            }
        }
        Ok(Self { pieces, len: used })
    }

    fn as_ptr(&self) -> *const libc::iovec {
        self.pieces.as_ptr()
    }

    fn count(&self) -> libc::c_int {
        libc::c_int::try_from(self.len).expect("at most PIECES")
    }
}
