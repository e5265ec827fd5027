//! Keeps page faults off the request path: in an interpreted guest kernel the first touch of a
//! page costs more than a system call.

use hearth_protocol::guest::MAX_PAYLOAD;
use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};

/// Allocations of this size and above get mappings of their own, given back when freed. No payload
/// is that large: a mapping of 6 MiB costs 1,500 faults each time.
const MAP_THRESHOLD: libc::c_int = 16 << 20;
/// Free memory that stays at the heap's end rather than going back to the kernel: more than
/// [`HEAP`], and less than two payloads.
const KEEP: libc::c_int = 10 << 20;
/// Heap that is there, touched, from the start: one payload, and frames, requests and lines of
/// ordinary size.
const HEAP: usize = MAX_PAYLOAD + (1 << 20);
const PAGE: usize = 4096;

/// Makes the allocator hold on to the memory that invocations need.
pub(crate) fn configure_allocator() {
    // SAFETY: mallopt only changes the allocator's settings; there is one thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_THRESHOLD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP);
    }
    let mut heap: Vec<u8> = Vec::with_capacity(HEAP);
    for page in heap.spare_capacity_mut().chunks_mut(PAGE) {
        // Zeros, which a snapshot's file need not store. The box keeps the compiler from leaving
        // out a write that nobody reads.
        page[0].write(0);
        std::hint::black_box(page);
    }
}

/// Faults in every page that the agent has now, its code included, before the snapshot is taken.
/// Locked, so that a function which eats all memory can't make the agent's code be read from disk
/// again, page by page.
pub(crate) fn settle() -> Result<(), Errno> {
    mlockall(MlockAllFlags::MCL_CURRENT)
}
