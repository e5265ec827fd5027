//! The mapped pages, and the doorbell: for whoever has them, runtime or agent.

use std::arch::asm;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

use hearth_protocol::mailbox::{
    DOORBELL_PORT, FRAMES, LOG_SIZE, PAGE, PAGES, REQUEST_ID, REQUEST_ID_LEN,
};

const DATA: usize = PAGE + LOG_SIZE;

/// The mailbox's pages as this process has them. Host and agent write there as well, hence nothing
/// here is ever borrowed: words are read and written volatile, bytes are copied.
#[derive(Debug)]
pub struct Pages(NonNull<u8>);

// SAFETY: the mapping belongs to the process and not to a thread.
unsafe impl Send for Pages {}

impl Pages {
    /// Maps what is behind `fd`, and brings it into the page tables: a fault costs more than a call.
    pub fn map(fd: RawFd) -> Option<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGES * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return None;
        }
        NonNull::new(at.cast()).map(Self)
    }

    fn word(&self, field: usize) -> *mut u32 {
        debug_assert!(field.is_multiple_of(4) && field + 4 <= PAGE);
        // SAFETY: within the first page.
        unsafe { self.0.as_ptr().add(field).cast() }
    }

    /// Reads a field of the header.
    pub fn get(&self, field: usize) -> u32 {
        // SAFETY: aligned, and mapped for as long as `self` lives.
        u32::from_le(unsafe { self.word(field).read_volatile() })
    }

    /// Reads a time of 8 bytes.
    pub fn time(&self, field: usize) -> u64 {
        u64::from(self.get(field)) | u64::from(self.get(field + 4)) << 32
    }

    /// Writes one.
    pub fn set(&self, field: usize, value: u32) {
        // SAFETY: as above.
        unsafe { self.word(field).write_volatile(value.to_le()) };
    }

    /// Writes whose event the runtime works on.
    pub fn set_request_id(&mut self, id: &[u8]) {
        assert!(id.len() <= REQUEST_ID_LEN);
        // SAFETY: within the first page.
        unsafe {
            let to = self.0.as_ptr().add(REQUEST_ID);
            ptr::copy_nonoverlapping(id.as_ptr(), to, id.len());
        }
    }

    /// Reads it.
    pub fn request_id(&self) -> [u8; REQUEST_ID_LEN] {
        // SAFETY: within the first page; bytes are aligned everywhere.
        unsafe {
            let from = self.0.as_ptr().add(REQUEST_ID);
            from.cast::<[u8; REQUEST_ID_LEN]>().read_volatile()
        }
    }

    /// Writes which frames the pages are in.
    pub fn set_frames(&self, frames: &[u64]) {
        assert!(frames.len() <= PAGES);
        for (n, frame) in frames.iter().enumerate() {
            // SAFETY: within the first page, and aligned.
            unsafe {
                let to = self.0.as_ptr().add(FRAMES + 8 * n).cast::<u64>();
                to.write_volatile(frame.to_le());
            }
        }
    }

    /// Where they begin.
    pub fn address(&self) -> NonNull<u8> {
        self.0
    }

    /// Copies into the data pages.
    pub fn write_data(&mut self, at: usize, bytes: &[u8]) {
        assert!(DATA + at + bytes.len() <= PAGES * PAGE);
        // SAFETY: in bounds; the mapping is nobody's slice.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_ptr().add(DATA + at), bytes.len());
        }
    }

    /// Copies out of them.
    pub fn read_data(&self, at: usize, bytes: &mut [u8]) {
        assert!(DATA + at + bytes.len() <= PAGES * PAGE);
        // SAFETY: as above.
        unsafe {
            ptr::copy_nonoverlapping(
                self.0.as_ptr().add(DATA + at),
                bytes.as_mut_ptr(),
                bytes.len(),
            );
        }
    }

    /// Reads from `fd` into the log pages behind `have` bytes; 0 if there is nothing to read now.
    pub fn read_output(&mut self, fd: RawFd, have: usize) -> usize {
        // SAFETY: the kernel writes at most to the end of the log pages.
        let count = unsafe {
            let to = self.0.as_ptr().add(PAGE + have);
            libc::read(fd, to.cast(), LOG_SIZE - have)
        };
        usize::try_from(count).unwrap_or(0)
    }

    /// Hands the pages to the host; they are back when this returns.
    pub fn ring(&mut self, value: u32) {
        // SAFETY: whoever gave this process the mailbox gave it the port. The pages may be changed
        // by this, hence no `nomem`.
        unsafe {
            asm!(
                "out dx, eax",
                in("dx") DOORBELL_PORT,
                in("eax") value,
                options(nostack, preserves_flags)
            );
        }
    }
}
