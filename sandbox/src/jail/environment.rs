//! The environment that the process was started with. It has paths of the controller, and perhaps
//! its secrets.

use std::ffi::{c_char, c_int};

unsafe extern "C" {
    static mut environ: *mut *mut c_char;
    fn clearenv() -> c_int;
}

/// Clears the environment and overwrites its strings. `clearenv` alone would drop only the list:
/// the strings would stay in the process's memory and in `/proc/PID/environ`.
///
/// # Safety
/// There must be one thread, and nothing may hold a reference into the environment.
pub unsafe fn wipe() {
    // SAFETY: the list ends with a null pointer and each string with a NUL. The caller guarantees
    // that nothing else uses either now.
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
