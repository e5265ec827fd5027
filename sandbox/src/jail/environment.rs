//! The environment that the process was started with: its owner's paths, and perhaps its secrets.

use std::ffi::{c_char, c_int};

unsafe extern "C" {
    static mut environ: *mut *mut c_char;
    fn clearenv() -> c_int;
}

/// Forgets it, and overwrites it where it lies: the strings stay in the process's memory, and in
/// `/proc/PID/environ`, when only the list of them is dropped.
///
/// # Safety
/// There must be one thread, and nothing may hold a reference into the environment.
pub unsafe fn wipe() {
    // SAFETY: the list ends with a null pointer, its strings with a NUL, and by the caller's word
    // nobody else looks at either now.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let len = libc::strlen(*entry);
            (*entry).write_bytes(0, len);
            entry = entry.add(1);
        }
        clearenv();
    }
}
