//! The mapped pages, and the doorbell: for whoever has them, runtime or agent.

use std::arch::asm;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

use hearth_protocol::guest::MAX_PAYLOAD;
use hearth_protocol::mailbox::{
    ANSWER_BODY, ANSWER_GOES_ON, ANSWER_KIND, ANSWER_META, COMMAND, COMMAND_UNHEARD, DATA_SIZE,
    DOORBELL_ANSWER, DOORBELL_MORE, DOORBELL_PORT, DOORBELL_TAKEN, EVENT_BODY, EVENT_META, FRAMES,
    LOG_LEN, LOG_SIZE, MAX_META, PAGE, PAGES, REQUEST_ID, REQUEST_ID_LEN,
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

    /// Writes the lengths of an answer, and its first chunk; returns what there is to come. There is
    /// no output with it yet.
    pub(crate) fn begin_answer<'a>(
        &mut self,
        kind: u32,
        meta: &[u8],
        body: &'a [u8],
        goes_on: bool,
    ) -> &'a [u8] {
        self.set(ANSWER_KIND, kind);
        self.set(ANSWER_META, word(meta.len()));
        self.set(ANSWER_BODY, word(body.len()));
        self.set(ANSWER_GOES_ON, u32::from(goes_on));
        self.set(LOG_LEN, 0);
        self.write_data(0, meta);
        let (now, later) = body.split_at(body.len().min(DATA_SIZE - meta.len()));
        self.write_data(meta.len(), now);
        later
    }

    /// Rings with an answer that was begun, and with what there is to come. The command says
    /// afterwards what became of it.
    pub(crate) fn end_answer(&mut self, mut later: &[u8]) {
        self.set(COMMAND, COMMAND_UNHEARD);
        while !later.is_empty() {
            self.ring(DOORBELL_MORE);
            let now;
            (now, later) = later.split_at(later.len().min(DATA_SIZE));
            self.write_data(0, now);
        }
        self.ring(DOORBELL_ANSWER);
    }

    /// Gives an answer, with `log` of output in front of it, and goes on. `false`: nobody took it.
    pub fn hand_over(&mut self, kind: u32, log: &[u8], meta: &[u8], body: &[u8]) -> bool {
        assert!(log.len() <= LOG_SIZE && meta.len() <= MAX_META && body.len() <= MAX_PAYLOAD);
        let later = self.begin_answer(kind, meta, body, true);
        // SAFETY: the log pages are that long; the mapping is nobody's slice.
        unsafe {
            ptr::copy_nonoverlapping(log.as_ptr(), self.0.as_ptr().add(PAGE), log.len());
        }
        self.set(LOG_LEN, word(log.len()));
        self.end_answer(later);
        self.get(COMMAND) != COMMAND_UNHEARD
    }

    /// Bytes of the event that is there: of its headers, and of its body.
    pub fn event(&self) -> (usize, usize) {
        (
            (self.get(EVENT_META) as usize).min(MAX_META),
            (self.get(EVENT_BODY) as usize).min(MAX_PAYLOAD),
        )
    }

    /// Copies an event; the lengths are those that [`Self::event`] told.
    pub fn take(&mut self, meta: &mut [u8], body: &mut [u8]) {
        self.read_data(0, meta);
        let (mut now, mut later) = body.split_at_mut(body.len().min(DATA_SIZE - meta.len()));
        self.read_data(meta.len(), now);
        while !later.is_empty() {
            self.ring(DOORBELL_TAKEN);
            let len = later.len().min(DATA_SIZE);
            (now, later) = later.split_at_mut(len);
            self.read_data(0, now);
        }
    }

    /// Copies into the data pages.
    fn write_data(&mut self, at: usize, bytes: &[u8]) {
        assert!(DATA + at + bytes.len() <= PAGES * PAGE);
        // SAFETY: in bounds; the mapping is nobody's slice.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_ptr().add(DATA + at), bytes.len());
        }
    }

    /// Copies out of them.
    fn read_data(&self, at: usize, bytes: &mut [u8]) {
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

fn word(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
