//! Powers the microVM off. PID 1 must never return: the guest kernel would panic.

use hearth_protocol::guest::{SHUTDOWN_PORT, SHUTDOWN_VALUE};
use nix::sys::reboot::{RebootMode, reboot};

/// Never returns.
pub(crate) fn off() -> ! {
    // SAFETY: ioperm only changes which ports this process may use. If it succeeds, `out` to that
    // port is allowed, touches no memory, and ends the machine.
    unsafe {
        if libc::ioperm(libc::c_ulong::from(SHUTDOWN_PORT), 1, 1) == 0 {
            std::arch::asm!(
                "out dx, al",
                in("dx") SHUTDOWN_PORT,
                in("al") SHUTDOWN_VALUE,
                options(nomem, nostack, preserves_flags)
            );
        }
    }
    loop {
        // Returns only on failure. Then the agent can only wait until the host ends the microVM.
        let _ = reboot(RebootMode::RB_POWER_OFF);
        nix::unistd::pause();
    }
}
