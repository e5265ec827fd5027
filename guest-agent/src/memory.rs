//! Avoids page faults on the request path: where the guest kernel is interpreted, the first access to a
//! page costs more than a system call.

use hearth_protocol::guest::MAX_PAYLOAD;
use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};

/// Minimum size in bytes of an allocation that gets a mapping of its own, which is unmapped when freed. No
/// payload is that large: a mapping of 6 MiB costs 1,500 faults each time.
const MAP_THRESHOLD: libc::c_int = 16 << 20;
/// Maximum free bytes at the heap's end that are not returned to the guest kernel: more than [`HEAP`], and
/// less than two payloads.
const KEEP: libc::c_int = 10 << 20;
/// Bytes of heap that are allocated and touched before the snapshot: one payload, and frames, requests and
/// lines of ordinary size.
const HEAP: usize = MAX_PAYLOAD + (1 << 20);
const PAGE: usize = 4096;

/// Makes the allocator keep the memory that invocations need.
pub(crate) fn configure_allocator() {
    // SAFETY: mallopt only changes the allocator's settings; there is one thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_THRESHOLD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP);
    }
    let mut heap: Vec<u8> = Vec::with_capacity(HEAP);
    for page in heap.spare_capacity_mut().chunks_mut(PAGE) {
        // Zeros, which a snapshot's file need not store. `black_box` keeps the compiler from removing the
        // write, whose value is never read.
        page[0].write(0);
        std::hint::black_box(page);
    }
}

/// Faults in every page that the agent has now, its code included, before the snapshot is taken, and locks
/// them: a function that uses up all memory cannot have the agent's code evicted and read from the disk
/// again, page by page.
pub(crate) fn settle() -> Result<(), Errno> {
    mlockall(MlockAllFlags::MCL_CURRENT)
}
