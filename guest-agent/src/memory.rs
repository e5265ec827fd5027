//! Keeps page faults off the request path: in an interpreted guest kernel the first touch of a
//! page costs more than a system call.

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};

/// Allocations of this size and above get mappings of their own, given back when freed: payloads,
/// which should not stay resident in a small guest.
const MAP_THRESHOLD: libc::c_int = 1 << 20;
/// Free memory that stays at the heap's end rather than going back to the kernel.
const KEEP: libc::c_int = 2 << 20;
/// Heap that is there, touched, from the start: frames, requests and lines of ordinary size.
const HEAP: usize = 512 * 1024;

/// Makes the allocator hold on to the memory that ordinary invocations need.
pub(crate) fn configure_allocator() {
    // SAFETY: mallopt only changes the allocator's settings; there is one thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_THRESHOLD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP);
    }
    let heap = vec![0x5au8; HEAP];
    // Without it the compiler may see that nobody reads the bytes, and not write them.
    std::hint::black_box(&heap);
}

/// Faults in every page that the agent has now, its code included, before the snapshot is taken.
/// Locked, so that a function which eats all memory can't make the agent's code be read from disk
/// again, page by page.
pub(crate) fn settle() -> Result<(), Errno> {
    mlockall(MlockAllFlags::MCL_CURRENT)
}
