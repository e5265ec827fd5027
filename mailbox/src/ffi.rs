//! The same for other languages; `include/hearth_mailbox.h` is its header.
//!
//! There is one mailbox in a process. The functions are not to be called by two threads at once.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};

use crate::{Answered, Kind, Mailbox};

struct One(UnsafeCell<State>);

struct State {
    mailbox: Option<Mailbox>,
    meta: usize,
    body: usize,
}

// SAFETY: the header demands that one thread at a time calls.
unsafe impl Sync for One {}

static ONE: One = One(UnsafeCell::new(State {
    mailbox: None,
    meta: 0,
    body: 0,
}));

/// Opens the mailbox that the process was started with: 1, or 0 if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn hearth_mailbox_open() -> c_int {
    // SAFETY: as the header demands, no other call is under way.
    let one = unsafe { &mut *ONE.0.get() };
    one.mailbox = Mailbox::open();
    c_int::from(one.mailbox.is_some())
}

/// Answers and waits: 0 not here, 1 the next event is the agent's to give, 2 it is here, 3 it is here
/// and the clock has to be set.
///
/// # Safety
/// `meta` and `body` lead to as many bytes as their lengths say, or to anything if those are 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hearth_mailbox_answer(
    failed: c_int,
    meta: *const c_void,
    meta_len: usize,
    body: *const c_void,
    body_len: usize,
) -> c_int {
    // SAFETY: as above.
    let one = unsafe { &mut *ONE.0.get() };
    let Some(mailbox) = &mut one.mailbox else {
        return 0;
    };
    let kind = if failed == 0 {
        Kind::Response
    } else {
        Kind::Error
    };
    // SAFETY: the caller's promise.
    let (meta, body) = unsafe { (slice(meta, meta_len), slice(body, body_len)) };
    match mailbox.answer(kind, meta, body) {
        Answered::NotHere => 0,
        Answered::Agent => 1,
        Answered::Event {
            meta,
            body,
            clock_is_off,
        } => {
            (one.meta, one.body) = (meta, body);
            2 + c_int::from(clock_is_off)
        }
    }
}

/// Bytes of the event's headers.
#[unsafe(no_mangle)]
pub extern "C" fn hearth_mailbox_event_meta() -> usize {
    // SAFETY: as above.
    unsafe { (*ONE.0.get()).meta }
}

/// Bytes of the event.
#[unsafe(no_mangle)]
pub extern "C" fn hearth_mailbox_event_body() -> usize {
    // SAFETY: as above.
    unsafe { (*ONE.0.get()).body }
}

/// Copies the event, once after each answer that returned 2 or 3.
///
/// # Safety
/// There must be room for as many bytes as the two functions above say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hearth_mailbox_take(meta: *mut c_void, body: *mut c_void) {
    // SAFETY: as above.
    let one = unsafe { &mut *ONE.0.get() };
    let Some(mailbox) = &mut one.mailbox else {
        return;
    };
    // SAFETY: the caller's promise.
    let (meta, body) = unsafe { (slice_mut(meta, one.meta), slice_mut(body, one.body)) };
    mailbox.take(meta, body);
    (one.meta, one.body) = (0, 0);
}

/// # Safety
/// `at` leads to `len` bytes, unless that is 0.
unsafe fn slice<'a>(at: *const c_void, len: usize) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(at.cast(), len) }
}

/// # Safety
/// `at` leads to `len` bytes that nobody else uses, unless that is 0.
unsafe fn slice_mut<'a>(at: *mut c_void, len: usize) -> &'a mut [u8] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(at.cast(), len) }
}
