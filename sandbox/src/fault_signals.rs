//! What a memory fault of the sandbox itself does.
//!
//! Rust's runtime handles SIGSEGV and SIGBUS, to report an overflow of a stack. Its handler then restores
//! the default action by a system call, which the jail's filter does not allow. So a fault would look like
//! a forbidden system call, which is the mark of a guest that has broken into its sandbox. With the
//! default action the process ends by the signal itself: SIGBUS if the kernel can't read or write a page
//! of a file.

use nix::sys::signal::{SigHandler, Signal, signal};

/// Restores the default action. Called once, before the jail is entered.
pub fn use_default_actions() {
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default action runs no code of this process.
        let restored = unsafe { signal(fault, SigHandler::SigDfl) };
        restored.expect("both are signals whose action can be set");
    }
}
