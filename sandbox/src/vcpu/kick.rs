//! Kicks a vCPU's thread out of `KVM_RUN`, whatever the guest does.
//!
//! A signal interrupts `KVM_RUN`, but one that arrives just before the call would be lost. So a
//! kick first sets `immediate_exit` in the shared `kvm_run` page: a `KVM_RUN` that starts
//! after that completes the I/O of the exit before it and returns at once.

use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;

/// The signal of a kick. Its handler does nothing: the signal's only purpose is to interrupt
/// `KVM_RUN`.
pub(super) fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the handler, once per process.
pub(super) fn install_handler() -> Result<(), vmm_sys_util::errno::Error> {
    vmm_sys_util::signal::register_signal_handler(signal(), ignore)
}

/// `immediate_exit` of one vCPU's `kvm_run` page.
#[derive(Debug)]
pub(super) struct ImmediateExit(*const AtomicU8);

// SAFETY: the pointer leads to one byte of a shared mapping that is only accessed as an atomic
// here, and by the kernel, which reads it once per KVM_RUN.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above; atomics may be shared.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    /// # Safety
    /// The result must not be used after `vcpu` has been dropped.
    pub(super) unsafe fn of(vcpu: &mut VcpuFd) -> Self {
        let byte = &raw mut vcpu.get_kvm_run().immediate_exit;
        Self(byte.cast())
    }

    pub(super) fn set(&self, value: bool) {
        // SAFETY: `of`'s contract keeps the mapping alive, and every access is atomic.
        unsafe { &*self.0 }.store(u8::from(value), Ordering::SeqCst);
    }
}

/// Interrupts the thread. Set `immediate_exit` first.
pub(super) fn interrupt<T>(thread: &JoinHandle<T>) {
    if thread.is_finished() {
        return;
    }
    // SAFETY: the handle has not been joined, so the thread's id is valid even if it is ending;
    // the signal has a handler.
    let status = unsafe { libc::pthread_kill(thread.as_pthread_t(), signal()) };
    // The only possible error is ESRCH: the thread has ended meanwhile, so there is nothing to
    // interrupt.
    debug_assert!(status == 0 || status == libc::ESRCH);
}
