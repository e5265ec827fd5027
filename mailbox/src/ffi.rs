//! The C interface for other languages; `include/hearth_mailbox.h` is its header.
//!
//! A process has at most one mailbox. No two threads may call these functions at the same time.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};

use crate::{Answered, Kind, Mailbox};

struct Global(UnsafeCell<OpenMailbox>);

struct OpenMailbox {
    mailbox: Option<Mailbox>,
    meta: usize,
    body: usize,
}

impl OpenMailbox {
    /// Remembers the lengths of an event that has come. Returns the result as a number.
    fn outcome(&mut self, answered: Answered) -> c_int {
        match answered {
            Answered::NotHere => 0,
            Answered::Agent => 1,
            Answered::Event {
                meta,
                body,
                clock_is_off,
            } => {
                (self.meta, self.body) = (meta, body);
                2 + c_int::from(clock_is_off)
            }
        }
    }
}

// SAFETY: the header requires that only one thread at a time calls.
unsafe impl Sync for Global {}

static GLOBAL: Global = Global(UnsafeCell::new(OpenMailbox {
    mailbox: None,
    meta: 0,
    body: 0,
}));

/// Opens the mailbox that the agent has given this process. Returns 1, or 0 if it has none.
#[unsafe(no_mangle)]
pub extern "C" fn hearth_mailbox_open() -> c_int {
    // SAFETY: as the header requires, no other call is in progress.
    let global = unsafe { &mut *GLOBAL.0.get() };
    global.mailbox = Mailbox::open();
    c_int::from(global.mailbox.is_some())
}

/// Answers and waits. Returns 0 if the mailbox can't be used for this answer, 1 if the agent has
/// the next event, 2 if it is here, 3 if it is here and the clock has to be set.
///
/// # Safety
/// `meta` and `body` must point to as many bytes as their lengths say; if a length is 0, to
/// anything.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hearth_mailbox_answer(
    failed: c_int,
    meta: *const c_void,
    meta_len: usize,
    body: *const c_void,
    body_len: usize,
) -> c_int {
    // SAFETY: as above.
    let global = unsafe { &mut *GLOBAL.0.get() };
    let Some(mailbox) = &mut global.mailbox else {
        return 0;
    };
    // SAFETY: the caller guarantees it.
    let (meta, body) = unsafe { (slice(meta, meta_len), slice(body, body_len)) };
    let answered = mailbox.answer(kind(failed), meta, body);
    global.outcome(answered)
}

/// Answers without waiting. Returns 1, or 0 if the mailbox can't be used for this answer.
///
/// # Safety
/// As [`hearth_mailbox_answer`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hearth_mailbox_give(
    failed: c_int,
    meta: *const c_void,
    meta_len: usize,
    body: *const c_void,
    body_len: usize,
) -> c_int {
    // SAFETY: as above.
    let global = unsafe { &mut *GLOBAL.0.get() };
    let Some(mailbox) = &mut global.mailbox else {
        return 0;
    };
    // SAFETY: the caller guarantees it.
    let (meta, body) = unsafe { (slice(meta, meta_len), slice(body, body_len)) };
    c_int::from(mailbox.give(kind(failed), meta, body))
}

/// Sends the answer that was given, and waits. Returns what [`hearth_mailbox_answer`] does.
#[unsafe(no_mangle)]
pub extern "C" fn hearth_mailbox_next() -> c_int {
    // SAFETY: as above.
    let global = unsafe { &mut *GLOBAL.0.get() };
    let Some(mailbox) = &mut global.mailbox else {
        return 0;
    };
    let answered = mailbox.await_event();
    global.outcome(answered)
}

fn kind(failed: c_int) -> Kind {
    if failed == 0 {
        Kind::Response
    } else {
        Kind::Error
    }
}

/// Length of the event's headers in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn hearth_mailbox_event_meta() -> usize {
    // SAFETY: as above.
    unsafe { (*GLOBAL.0.get()).meta }
}

/// Length of the event's body in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn hearth_mailbox_event_body() -> usize {
    // SAFETY: as above.
    unsafe { (*GLOBAL.0.get()).body }
}

/// Copies the event. Call it once after each answer that returned 2 or 3.
///
/// # Safety
/// `meta` and `body` must have space for as many bytes as the two functions above return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hearth_mailbox_take(meta: *mut c_void, body: *mut c_void) {
    // SAFETY: as above.
    let global = unsafe { &mut *GLOBAL.0.get() };
    let Some(mailbox) = &mut global.mailbox else {
        return;
    };
    // SAFETY: the caller guarantees it.
    let (meta, body) = unsafe { (slice_mut(meta, global.meta), slice_mut(body, global.body)) };
    mailbox.take(meta, body);
    (global.meta, global.body) = (0, 0);
}

/// # Safety
/// `at` must point to `len` bytes, unless `len` is 0.
unsafe fn slice<'a>(at: *const c_void, len: usize) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller guarantees it.
    unsafe { std::slice::from_raw_parts(at.cast(), len) }
}

/// # Safety
/// `at` must point to `len` bytes that nothing else uses, unless `len` is 0.
unsafe fn slice_mut<'a>(at: *mut c_void, len: usize) -> &'a mut [u8] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller guarantees it.
    unsafe { std::slice::from_raw_parts_mut(at.cast(), len) }
}
