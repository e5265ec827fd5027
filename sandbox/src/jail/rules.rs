//! The system calls that each kind of thread may make, with which arguments, and why. Any other
//! call kills the process.
//!
//! The main thread can't run a guest, and a vCPU's thread can't read any socket except its
//! mailbox's; neither can take the other's role. No thread can start a thread or a program, open a
//! file, make memory executable or shared, or name another process.

use kvm_bindings::{
    kvm_clock_data, kvm_cpuid2, kvm_debugregs, kvm_fpu, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_msr_list, kvm_msrs, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

/// One system call.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its number.
    pub call: libc::c_long,
    /// The arguments that are allowed.
    pub when: When,
    /// What needs it.
    pub why: &'static str,
}

/// Which arguments are allowed.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// Any arguments: they can do no harm.
    Always,
    /// The argument with this index (from 0), as 32 bits, is one of these.
    OneOf(u8, &'static [u64]),
    /// The argument with this index is the given one of the mailbox's two descriptors.
    Mailbox(u8, MailboxEnd),
    /// All of these hold.
    All(&'static [Holds]),
}

/// One of the mailbox's descriptors, in the order of `MailboxSocket::descriptors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailboxEnd {
    /// The controller's socket.
    Controller,
    /// The eventfd that wakes the thread.
    Wake,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy)]
pub enum Holds {
    /// Its low 32 bits, masked, have this value.
    Bits32(u8, u32, u32),
    /// All of its 64 bits, masked, have this value.
    Bits64(u8, u64, u64),
    /// It is this process's id.
    OwnProcess(u8),
}

const fn rule(call: libc::c_long, when: When, why: &'static str) -> Rule {
    Rule { call, when, why }
}

use Holds::{Bits32, Bits64, OwnProcess};
use MailboxEnd::{Controller, Wake};
use When::{All, Always, Mailbox, OneOf};

const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
/// The mask of the flags that are not allowed. The allowed ones cost the host nothing beyond the
/// memory itself. Not allowed are huge pages of the host's reserve, and locked, shared or fixed
/// mappings.
const MAP_KIND: u32 =
    (!(libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK)).cast_unsigned();
const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
/// The kick of a vCPU's thread: `SIGRTMIN` of the C library, which reserves two signals for itself.
const KICK: u32 = 34;

/// The operations of locks and channels.
const FUTEX: &[u64] = &[FUTEX_LOCK, FUTEX_WAKE, FUTEX_WAIT];
const FUTEX_LOCK: u64 = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u64;
const FUTEX_WAKE: u64 = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u64;
const FUTEX_WAIT: u64 = (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as u64;
/// The operation of joining a thread: the kernel's wake-up at a thread's end is not a private one.
const FUTEX_JOIN: u64 = (libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME) as u64;

/// What both kinds of threads need, mostly for the C library and Rust's standard library.
const BOTH: &[Rule] = &[
    rule(libc::SYS_write, Always, "eventfds, log, control socket"),
    rule(libc::SYS_writev, Always, "log"),
    rule(libc::SYS_sched_yield, Always, "channels"),
    rule(libc::SYS_brk, Always, "allocator"),
    rule(
        libc::SYS_mmap,
        All(&[
            Bits64(2, !READ_WRITE, 0),
            Bits32(3, MAP_KIND, libc::MAP_PRIVATE as u32),
        ]),
        "allocator; guest memory. Never executable, shared, locked, of huge pages, or over another mapping",
    ),
    rule(
        libc::SYS_mprotect,
        All(&[Bits64(2, !READ_WRITE, 0)]),
        "allocator. Never executable",
    ),
    rule(
        libc::SYS_mremap,
        OneOf(3, &[libc::MREMAP_MAYMOVE as u64]),
        "allocator",
    ),
    rule(libc::SYS_munmap, Always, "allocator; guest memory"),
    rule(
        libc::SYS_madvise,
        OneOf(2, &[libc::MADV_DONTNEED as u64]),
        "allocator, a thread's stack",
    ),
    rule(
        libc::SYS_clock_gettime,
        Always,
        "CPU time; wall time where the vDSO has none",
    ),
    rule(
        libc::SYS_sched_getaffinity,
        Always,
        "allocator: number of arenas",
    ),
    rule(libc::SYS_rt_sigprocmask, Always, "a thread's end, kicks"),
    rule(
        libc::SYS_restart_syscall,
        Always,
        "goes on with a wait after the process was stopped and continued",
    ),
    rule(libc::SYS_sigaltstack, Always, "a thread's end"),
    rule(
        libc::SYS_close,
        Always,
        "descriptors of commands, at the end all",
    ),
    rule(libc::SYS_exit_group, Always, "the end"),
];

/// The event loop: control socket, devices, KVM's state, snapshots.
const MAIN: &[Rule] = &[
    rule(libc::SYS_read, Always, "eventfds"),
    rule(
        libc::SYS_getrandom,
        Always,
        "what makes a restored guest's random generators its own",
    ),
    rule(
        libc::SYS_futex,
        OneOf(1, &[FUTEX_LOCK, FUTEX_WAKE, FUTEX_WAIT, FUTEX_JOIN]),
        "channels, locks, joining",
    ),
    rule(libc::SYS_epoll_wait, Always, "the loop"),
    rule(libc::SYS_epoll_ctl, Always, "the loop"),
    rule(libc::SYS_recvmsg, Always, "commands and their descriptors"),
    rule(
        libc::SYS_sendto,
        All(&[Bits64(4, u64::MAX, 0)]),
        "vsock. To the peer, never to an address",
    ),
    rule(
        libc::SYS_sendmsg,
        OneOf(2, &[libc::MSG_NOSIGNAL as u64]),
        "vsock, from guest memory. The controller's end accepts no descriptors",
    ),
    rule(libc::SYS_recvfrom, Always, "vsock"),
    rule(libc::SYS_readv, Always, "vsock, into guest memory"),
    rule(libc::SYS_shutdown, Always, "vsock: no more bytes"),
    rule(libc::SYS_preadv, Always, "disks, into guest memory"),
    rule(libc::SYS_pread64, Always, "state file, pagemap"),
    rule(libc::SYS_pwrite64, Always, "snapshot"),
    rule(
        libc::SYS_lseek,
        Always,
        "kernel's segments; holes of the memory file",
    ),
    rule(libc::SYS_ftruncate, Always, "snapshot"),
    rule(libc::SYS_fsync, Always, "snapshot"),
    rule(
        libc::SYS_statx,
        All(&[Bits32(2, EMPTY_PATH, EMPTY_PATH)]),
        "sizes and kinds of the files. Of a descriptor",
    ),
    rule(
        libc::SYS_fcntl,
        OneOf(1, &[libc::F_GETFL as u64, libc::F_DUPFD_CLOEXEC as u64]),
        "how a file was opened; the memory file twice, eventfds for threads",
    ),
    rule(libc::SYS_getpid, Always, "kicks"),
    rule(
        libc::SYS_tgkill,
        All(&[OwnProcess(0), Bits32(2, u32::MAX, KICK)]),
        "kicks. Only this process's threads, only that signal",
    ),
    rule(
        libc::SYS_ioctl,
        OneOf(1, MAIN_IOCTLS),
        "KVM: making, restoring, saving",
    ),
];

/// A vCPU's thread: runs the guest, reads and repairs its state.
const VCPU: &[Rule] = &[
    rule(libc::SYS_futex, OneOf(1, FUTEX), "channels, locks"),
    rule(libc::SYS_rt_sigreturn, Always, "kicks"),
    rule(
        libc::SYS_timer_settime,
        Always,
        "CPU budget; time without the guest's kernel",
    ),
    rule(libc::SYS_timer_delete, Always, "timers, at the end"),
    rule(
        libc::SYS_read,
        Mailbox(0, Wake),
        "the eventfd that wakes it at the mailbox",
    ),
    rule(
        libc::SYS_readv,
        Mailbox(0, Controller),
        "events, into guest memory",
    ),
    rule(
        libc::SYS_sendmsg,
        Mailbox(0, Controller),
        "answers, from guest memory",
    ),
    rule(libc::SYS_poll, Always, "waiting at the mailbox"),
    rule(
        libc::SYS_pread64,
        Always,
        "KVM's count of emulated instructions",
    ),
    rule(libc::SYS_exit, Always, "the thread's end"),
    rule(
        libc::SYS_ioctl,
        OneOf(1, VCPU_IOCTLS),
        "KVM: running, reading, the assist",
    ),
];

/// The rules of the main thread.
pub fn main_thread() -> impl Iterator<Item = &'static Rule> {
    BOTH.iter().chain(MAIN)
}

/// The rules of a vCPU's thread.
pub fn vcpu_thread() -> impl Iterator<Item = &'static Rule> {
    BOTH.iter().chain(VCPU)
}

// ioctl numbers, put together as in include/uapi/asm-generic/ioctl.h. KVM's calls (linux/kvm.h)
// have type 0xAE.
const NONE: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;

const fn kvm(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | 0xae << 8 | number
}

/// Calls whose argument and result are plain numbers.
const fn plain(number: u64) -> u64 {
    kvm(NONE, number, 0)
}

const fn set<T>(number: u64) -> u64 {
    kvm(WRITE, number, size_of::<T>())
}

const fn get<T>(number: u64) -> u64 {
    kvm(READ, number, size_of::<T>())
}

const fn exchange<T>(number: u64) -> u64 {
    kvm(READ | WRITE, number, size_of::<T>())
}

const CHECK_EXTENSION: u64 = plain(0x03);
const GET_TSC_KHZ: u64 = plain(0xa3);

const MAIN_IOCTLS: &[u64] = &[
    libc::FIONBIO, // a socket that does not block
    CHECK_EXTENSION,
    exchange::<kvm_cpuid2>(0x05),             // KVM_GET_SUPPORTED_CPUID
    set::<kvm_userspace_memory_region>(0x46), // KVM_SET_USER_MEMORY_REGION
    exchange::<kvm_irqchip>(0x62),            // KVM_GET_IRQCHIP
    get::<kvm_irqchip>(0x63),                 // KVM_SET_IRQCHIP: the header says "read"
    set::<kvm_clock_data>(0x7b),              // KVM_SET_CLOCK
    get::<kvm_clock_data>(0x7c),              // KVM_GET_CLOCK
    get::<kvm_pit_state2>(0x9f),              // KVM_GET_PIT2
    set::<kvm_pit_state2>(0xa0),              // KVM_SET_PIT2
    set::<kvm_regs>(0x82),                    // KVM_SET_REGS
    get::<kvm_sregs>(0x83),                   // KVM_GET_SREGS
    set::<kvm_sregs>(0x84),                   // KVM_SET_SREGS
    set::<kvm_msrs>(0x89),                    // KVM_SET_MSRS
    set::<kvm_fpu>(0x8d),                     // KVM_SET_FPU
    set::<kvm_lapic_state>(0x8f),             // KVM_SET_LAPIC
    set::<kvm_cpuid2>(0x90),                  // KVM_SET_CPUID2
    set::<kvm_mp_state>(0x99),                // KVM_SET_MP_STATE
    set::<kvm_vcpu_events>(0xa0),             // KVM_SET_VCPU_EVENTS
    set::<kvm_debugregs>(0xa2),               // KVM_SET_DEBUGREGS
    plain(0xa2),                              // KVM_SET_TSC_KHZ
    GET_TSC_KHZ,
    set::<kvm_xsave>(0xa5), // KVM_SET_XSAVE
    set::<kvm_xcrs>(0xa7),  // KVM_SET_XCRS
    plain(0xad),            // KVM_KVMCLOCK_CTRL
];

const VCPU_IOCTLS: &[u64] = &[
    plain(0x80),                    // KVM_RUN
    exchange::<kvm_msr_list>(0x02), // KVM_GET_MSR_INDEX_LIST
    get::<kvm_regs>(0x81),          // KVM_GET_REGS
    set::<kvm_regs>(0x82),          // KVM_SET_REGS, the assist's
    get::<kvm_sregs>(0x83),         // KVM_GET_SREGS
    set::<kvm_sregs>(0x84),         // KVM_SET_SREGS, the assist's
    exchange::<kvm_msrs>(0x88),     // KVM_GET_MSRS
    set::<kvm_msrs>(0x89),          // KVM_SET_MSRS, the guest's timer
    get::<kvm_lapic_state>(0x8e),   // KVM_GET_LAPIC
    exchange::<kvm_cpuid2>(0x91),   // KVM_GET_CPUID2
    get::<kvm_mp_state>(0x98),      // KVM_GET_MP_STATE
    get::<kvm_vcpu_events>(0x9f),   // KVM_GET_VCPU_EVENTS
    set::<kvm_vcpu_events>(0xa0),   // KVM_SET_VCPU_EVENTS, the assist's
    get::<kvm_debugregs>(0xa1),     // KVM_GET_DEBUGREGS
    GET_TSC_KHZ,
    get::<kvm_xsave>(0xa4), // KVM_GET_XSAVE
    set::<kvm_xsave>(0xa5), // KVM_SET_XSAVE, the assist's
    get::<kvm_xcrs>(0xa6),  // KVM_GET_XCRS
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_are_those_of_the_headers() {
        assert_eq!(plain(0x80), 0xae80);
        assert_eq!(set::<kvm_userspace_memory_region>(0x46), 0x4020_ae46);
        assert_eq!(get::<kvm_regs>(0x81), 0x8090_ae81);
        assert_eq!(exchange::<kvm_msrs>(0x88), 0xc008_ae88);
        assert_eq!(get::<kvm_xsave>(0xa4), 0x9000_aea4);
        assert_eq!(u64::from(KICK), u64::try_from(libc::SIGRTMIN()).unwrap());
    }

    #[test]
    fn no_call_has_two_rules_in_one_thread() {
        for rules in [main_thread().collect::<Vec<_>>(), vcpu_thread().collect()] {
            let calls: BTreeSet<_> = rules.iter().map(|rule| rule.call).collect();
            assert_eq!(calls.len(), rules.len());
        }
    }

    #[test]
    fn only_a_vcpu_thread_runs_a_guest_and_only_the_main_thread_hears_commands() {
        assert!(!MAIN_IOCTLS.contains(&plain(0x80)));
        assert!(vcpu_thread().all(|rule| rule.call != libc::SYS_recvmsg));
    }

    #[test]
    fn what_leads_out_is_in_no_list() {
        let never = [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_kill,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_memfd_create,
            libc::SYS_pidfd_getfd,
            libc::SYS_prctl,
            libc::SYS_setuid,
        ];
        for rule in main_thread().chain(vcpu_thread()) {
            assert!(!never.contains(&rule.call), "{rule:?}");
        }
    }
}
