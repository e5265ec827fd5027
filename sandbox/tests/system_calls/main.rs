//! Compares the filters' rules with the system calls that sandboxes really make: no rule is
//! missing, and none is superfluous. Sandboxes do everything that they can do under strace, and
//! every call that a thread makes behind its filter is looked up in its rules. If a rule can't show
//! up in a run, its reason is below.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

#[path = "../hostile_guests/assembler.rs"]
#[allow(dead_code, reason = "written for more than is needed here")]
mod assembler;
#[path = "../hostile_guests/doorbell.rs"]
#[allow(dead_code, reason = "written for more than is needed here")]
mod doorbell;
#[path = "../hostile_guests/driver.rs"]
#[allow(dead_code, reason = "written for more than is needed here")]
mod driver;
mod scenes;
#[path = "../support/mod.rs"]
mod support;
mod trace;

use std::collections::BTreeSet;

use hearth_sandbox::host::{HostIdentity, HostKind};
use hearth_sandbox::jail::rules::{self, Holds, MailboxEnd, Rule, When};
use trace::{Call, Thread};

/// Rules that need not show up in a run, with the reason.
const UNSEEN: &[(Permission, &str)] = &[
    (
        (Thread::Main, libc::SYS_restart_syscall, None),
        "a wait with a limit, of a process that was stopped and continued",
    ),
    (
        (Thread::Vcpu, libc::SYS_restart_syscall, None),
        "the wait at the mailbox, of a process that was stopped and continued",
    ),
    (
        (Thread::Main, libc::SYS_brk, None),
        "the heap grows with what there is in memory at once",
    ),
    (
        (Thread::Vcpu, libc::SYS_brk, None),
        "a block of the first heap that this thread makes larger",
    ),
    (
        (Thread::Main, libc::SYS_mprotect, None),
        "how the C library's other heaps grow, which it takes to when the first can't grow",
    ),
    (
        (Thread::Vcpu, libc::SYS_mprotect, None),
        "how this thread's heap grows, with what it has in memory at once",
    ),
    (
        (Thread::Vcpu, libc::SYS_mmap, None),
        "large blocks, and a heap that is full",
    ),
    (
        (Thread::Vcpu, libc::SYS_munmap, None),
        "large blocks, and a heap that was emptied",
    ),
    (
        (Thread::Vcpu, libc::SYS_mremap, Some(MAYMOVE)),
        "large blocks that grow",
    ),
    (
        (Thread::Main, libc::SYS_mremap, Some(MAYMOVE)),
        "large blocks that grow: most runs show it, those of a busy host need not",
    ),
    (
        (Thread::Main, libc::SYS_madvise, Some(DONTNEED)),
        "memory that a vCPU's thread had and this one gives back",
    ),
    (
        (Thread::Main, libc::SYS_sched_getaffinity, None),
        "the C library counts CPUs before it makes a ninth heap",
    ),
    (
        (Thread::Vcpu, libc::SYS_sched_getaffinity, None),
        "the C library counts CPUs before it makes a ninth heap",
    ),
    (
        (Thread::Main, libc::SYS_sched_yield, None),
        "a channel that another thread works on at the same moment",
    ),
    (
        (Thread::Vcpu, libc::SYS_sched_yield, None),
        "a channel that another thread works on at the same moment",
    ),
    (
        (Thread::Main, libc::SYS_futex, Some(LOCK)),
        "a lock of the allocator's that another thread has at the same moment",
    ),
    (
        (Thread::Vcpu, libc::SYS_futex, Some(LOCK)),
        "a lock of the allocator's that another thread has at the same moment",
    ),
    (
        (Thread::Main, libc::SYS_writev, None),
        "the C library's last words when its heap is found broken",
    ),
    (
        (Thread::Vcpu, libc::SYS_writev, None),
        "the C library's last words when its heap is found broken",
    ),
    (
        (Thread::Vcpu, libc::SYS_exit_group, None),
        "the end after a violation that was to be reported",
    ),
    (
        (Thread::Main, libc::SYS_ioctl, Some(SET_TSC_KHZ)),
        "a snapshot from a host whose clock runs at another speed",
    ),
];

/// Rules that only show up where the sandbox completes or counts instructions of KVM's interpreter.
const ASSIST: &[Permission] = &[
    (Thread::Vcpu, libc::SYS_pread64, None),
    (Thread::Vcpu, libc::SYS_ioctl, Some(0x4090_ae82)), // KVM_SET_REGS
    (Thread::Vcpu, libc::SYS_ioctl, Some(0x4138_ae84)), // KVM_SET_SREGS
    (Thread::Vcpu, libc::SYS_ioctl, Some(0x4040_aea0)), // KVM_SET_VCPU_EVENTS
    (Thread::Vcpu, libc::SYS_ioctl, Some(0x5000_aea5)), // KVM_SET_XSAVE
];

const MAYMOVE: u64 = libc::MREMAP_MAYMOVE as u64;
const DONTNEED: u64 = libc::MADV_DONTNEED as u64;
const LOCK: u64 = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u64;
const SET_TSC_KHZ: u64 = 0xaea2;

fn rules_of(thread: Thread) -> Vec<&'static Rule> {
    match thread {
        Thread::Main => rules::main_thread().collect(),
        Thread::Vcpu => rules::vcpu_thread().collect(),
    }
}

/// One permission of a thread: a call and, for a rule that lists values, the value.
type Permission = (Thread, libc::c_long, Option<u64>);

fn permissions(thread: Thread) -> BTreeSet<Permission> {
    rules_of(thread)
        .into_iter()
        .flat_map(|rule| match rule.when {
            When::OneOf(_, values) => values
                .iter()
                .map(|value| (thread, rule.call, Some(*value)))
                .collect(),
            When::Always | When::All(_) | When::Mailbox(..) => vec![(thread, rule.call, None)],
        })
        .collect()
}

/// The permission by which a thread may make this call, as the kernel would decide.
fn permitted(call: &Call) -> Option<Permission> {
    let rule = rules_of(call.thread)
        .into_iter()
        .find(|rule| rule.call == call.number)?;
    let argument = |index: u8| call.arguments.get(usize::from(index)).copied().unwrap_or(0);
    let low = |index| argument(index) & u64::from(u32::MAX);
    match rule.when {
        When::Always => Some((call.thread, rule.call, None)),
        When::OneOf(index, values) => values
            .contains(&low(index))
            .then(|| (call.thread, rule.call, Some(low(index)))),
        When::Mailbox(index, end) => {
            let descriptor = match end {
                MailboxEnd::Controller => call.mailbox[0],
                MailboxEnd::Wake => call.mailbox[1],
            };
            (low(index) == descriptor).then_some((call.thread, rule.call, None))
        }
        When::All(conditions) => conditions
            .iter()
            .all(|condition| match *condition {
                Holds::Bits32(index, mask, value) => {
                    low(index) & u64::from(mask) == u64::from(value)
                }
                Holds::Bits64(index, mask, value) => argument(index) & mask == value,
                Holds::OwnProcess(index) => low(index) == call.process,
            })
            .then_some((call.thread, rule.call, None)),
    }
}

#[test]
fn no_rule_is_missing_and_none_is_there_for_nothing() {
    let calls = scenes::all();
    let mut seen = BTreeSet::new();
    for call in &calls {
        let permission = permitted(call);
        assert!(permission.is_some(), "no rule for {call:?}");
        seen.extend(permission);
    }
    let all: BTreeSet<_> = [Thread::Main, Thread::Vcpu]
        .into_iter()
        .flat_map(permissions)
        .collect();
    let host = HostIdentity::detect().unwrap().kind;
    let mut excused: BTreeSet<Permission> = UNSEEN.iter().map(|(what, _why)| *what).collect();
    let assist: BTreeSet<Permission> = ASSIST.iter().copied().collect();
    let stale: Vec<_> = excused
        .union(&assist)
        .filter(|p| !all.contains(p))
        .collect();
    assert!(
        stale.is_empty(),
        "reasons for rules that do not exist: {stale:x?}"
    );
    if host == HostKind::Hardware {
        excused.extend(assist);
    }
    let unused: Vec<_> = all
        .difference(&seen)
        .filter(|permission| !excused.contains(permission))
        .map(|&(thread, call, value)| {
            let rule = rules_of(thread).into_iter().find(|rule| rule.call == call);
            format!("{thread:?}: call {call} {value:x?}: {}", rule.unwrap().why)
        })
        .collect();
    assert!(unused.is_empty(), "never used:\n{}", unused.join("\n"));
}
