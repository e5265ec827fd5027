//! The mapped pages and the doorbell. Both the runtime and the agent use this module.

use std::arch::asm;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use hearth_protocol::guest::MAX_PAYLOAD;
use hearth_protocol::mailbox::{
    ANSWER_BODY, ANSWER_GOES_ON, ANSWER_KIND, ANSWER_META, COMMAND, COMMAND_UNHEARD, DATA_SIZE,
    DOORBELL_ANSWER, DOORBELL_MORE, DOORBELL_PORT, DOORBELL_TAKEN, EVENT_BODY, EVENT_META, FRAMES,
    HELD, LOG_LEN, LOG_SIZE, MAX_META, PAGE, PAGES, REQUEST_ID, REQUEST_ID_LEN,
};

const DATA: usize = PAGE + LOG_SIZE;

/// The mailbox's pages, mapped into this process. The host and other processes write to them too,
/// so nothing here is ever borrowed: words are read and written volatile, bytes are copied.
#[derive(Debug)]
pub struct Pages(NonNull<u8>);

// SAFETY: the mapping belongs to the process and not to a thread.
unsafe impl Send for Pages {}

impl Pages {
    /// Maps the pages behind `fd`, and fills the page tables at once: a page fault later would cost
    /// more than a call.
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

    /// Reads an 8-byte time from the header.
    pub fn time(&self, field: usize) -> u64 {
        u64::from(self.get(field)) | u64::from(self.get(field + 4)) << 32
    }

    /// Writes a field of the header.
    pub fn set(&self, field: usize, value: u32) {
        // SAFETY: as above.
        unsafe { self.word(field).write_volatile(value.to_le()) };
    }

    /// Writes the request id of the event that the runtime works on.
    pub fn set_request_id(&mut self, id: &[u8]) {
        assert!(id.len() <= REQUEST_ID_LEN);
        // SAFETY: within the first page.
        unsafe {
            let to = self.0.as_ptr().add(REQUEST_ID);
            ptr::copy_nonoverlapping(id.as_ptr(), to, id.len());
        }
    }

    /// Reads the request id of the event that the runtime works on.
    pub fn request_id(&self) -> [u8; REQUEST_ID_LEN] {
        // SAFETY: within the first page; bytes are aligned everywhere.
        unsafe {
            let from = self.0.as_ptr().add(REQUEST_ID);
            from.cast::<[u8; REQUEST_ID_LEN]>().read_volatile()
        }
    }

    /// Writes the frame numbers of the pages.
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

    /// Address of the first page.
    pub fn address(&self) -> NonNull<u8> {
        self.0
    }

    /// Writes the lengths and the first chunk of an answer without output; returns the rest of the
    /// body.
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

    /// Rings with an answer that was begun, and sends the rest of its body, `later`. Afterwards the
    /// command field says what the host has done.
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

    /// Sends an answer, with `log` as output before it, and runs on. Returns `false` if no host has
    /// taken it.
    pub fn hand_over(&mut self, kind: u32, log: &[u8], meta: &[u8], body: &[u8]) -> bool {
        assert!(log.len() <= LOG_SIZE && meta.len() <= MAX_META && body.len() <= MAX_PAYLOAD);
        let later = self.begin_answer(kind, meta, body, true);
        // SAFETY: the log pages are long enough; no slice refers to the mapping.
        unsafe {
            ptr::copy_nonoverlapping(log.as_ptr(), self.0.as_ptr().add(PAGE), log.len());
        }
        self.set(LOG_LEN, word(log.len()));
        self.end_answer(later);
        self.get(COMMAND) != COMMAND_UNHEARD
    }

    fn held(&self) -> &AtomicU32 {
        // SAFETY: aligned, and mapped for as long as `self` lives. Every user of this word uses it as
        // an atomic.
        unsafe { AtomicU32::from_ptr(self.word(HELD)) }
    }

    /// Announces that the pages hold a whole answer.
    pub(crate) fn hold(&mut self) {
        self.held().store(1, Ordering::SeqCst);
    }

    /// Takes over the answer that is held. `false`: there is none, or the other side has taken it.
    pub fn take_held(&self) -> bool {
        self.held().swap(0, Ordering::SeqCst) == 1
    }

    /// Copies the answer that was held: its kind, its meta part and its body. Only
    /// [`take_held`](Self::take_held) gives a right to it.
    pub fn held_answer(&self) -> (u32, Vec<u8>, Vec<u8>) {
        let meta = (self.get(ANSWER_META) as usize).min(MAX_META);
        let body = (self.get(ANSWER_BODY) as usize).min(DATA_SIZE - meta);
        let (mut meta, mut body) = (vec![0; meta], vec![0; body]);
        self.read_data(0, &mut meta);
        self.read_data(meta.len(), &mut body);
        (self.get(ANSWER_KIND), meta, body)
    }

    /// Lengths of the event in the pages: of its headers and of its body.
    pub fn event(&self) -> (usize, usize) {
        (
            (self.get(EVENT_META) as usize).min(MAX_META),
            (self.get(EVENT_BODY) as usize).min(MAX_PAYLOAD),
        )
    }

    /// Copies an event. The buffers must have the lengths that [`Self::event`] returned.
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

    /// Copies `bytes` into the data pages.
    fn write_data(&mut self, at: usize, bytes: &[u8]) {
        assert!(DATA + at + bytes.len() <= PAGES * PAGE);
        // SAFETY: in bounds; no slice refers to the mapping.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_ptr().add(DATA + at), bytes.len());
        }
    }

    /// Copies `bytes` out of the data pages.
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

    /// Reads from `fd` into the log pages, after the first `have` bytes. Returns 0 if there is
    /// nothing to read now.
    pub fn read_output(&mut self, fd: RawFd, have: usize) -> usize {
        // SAFETY: the kernel writes at most to the end of the log pages.
        let count = unsafe {
            let to = self.0.as_ptr().add(PAGE + have);
            libc::read(fd, to.cast(), LOG_SIZE - have)
        };
        usize::try_from(count).unwrap_or(0)
    }

    /// Rings the doorbell, which passes the pages to the host. They belong to the guest again when
    /// this returns.
    pub fn ring(&mut self, value: u32) {
        // SAFETY: the agent that gave this process the mailbox also gave it access to the port. The
        // host may change the pages meanwhile, so this is not `nomem`.
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
