//! Compiles the [`rules`] into the BPF programs that the kernel runs at each system
//! call.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::sync::Arc;

use nix::unistd::getpid;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::rules::{self, Holds, MailboxEnd, Rule, When};

/// Why a filter could not be compiled or installed.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A rule can't be compiled.
    #[error("system call filter: {0}")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel refused the filter.
    #[error("installing a system call filter: {0}")]
    Install(#[from] seccompiler::Error),
    /// The signal handler of [`Mismatch::Report`] could not be installed.
    #[error("installing the handler of SIGSYS: {0}")]
    Handler(io::Error),
}

/// What happens to a process that makes a system call that no rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The kernel kills it, and its parent sees SIGSYS.
    Kill,
    /// The process reports the call and exits. Only for developers who change the rules: an
    /// attacker could remove the signal handler.
    Report,
}

/// The descriptors of a process without a mailbox. No open descriptor has this number.
pub const NO_MAILBOX: [RawFd; 2] = [-1; 2];

/// The filter for one kind of thread.
#[derive(Debug, Clone)]
pub struct ThreadFilter(Arc<BpfProgram>);

/// The filters of a sandbox.
#[derive(Debug)]
pub struct Filters {
    /// For the event loop's thread.
    pub main: ThreadFilter,
    /// For each vCPU's thread.
    pub vcpu: ThreadFilter,
}

impl Filters {
    /// Compiles the filters for the calling process. `mailbox` are the descriptors that a vCPU's
    /// thread may use.
    pub fn new(mismatch: Mismatch, mailbox: [RawFd; 2]) -> Result<Self, FilterError> {
        let action = match mismatch {
            Mismatch::Kill => SeccompAction::KillProcess,
            Mismatch::Report => {
                report_violations().map_err(FilterError::Handler)?;
                SeccompAction::Trap
            }
        };
        Ok(Self {
            main: compile(rules::main_thread(), action.clone(), mailbox)?,
            vcpu: compile(rules::vcpu_thread(), action, mailbox)?,
        })
    }
}

impl ThreadFilter {
    /// Installs the filter for the calling thread. It can't be removed.
    pub fn install(&self) -> Result<(), FilterError> {
        Ok(apply_filter(&self.0)?)
    }
}

fn compile<'a>(
    rules: impl Iterator<Item = &'a Rule>,
    mismatch: SeccompAction,
    mailbox: [RawFd; 2],
) -> Result<ThreadFilter, FilterError> {
    let rules = rules
        .map(|rule| Ok((rule.call, alternatives(rule.when, mailbox)?)))
        .collect::<Result<BTreeMap<_, _>, FilterError>>()?;
    let filter = SeccompFilter::new(rules, mismatch, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok(ThreadFilter(Arc::new(filter.try_into()?)))
}

/// The call is allowed if one of these matches, or always if there are none.
fn alternatives(when: When, mailbox: [RawFd; 2]) -> Result<Vec<SeccompRule>, FilterError> {
    match when {
        When::Always => Ok(Vec::new()),
        When::OneOf(argument, values) => values
            .iter()
            .map(|value| {
                let is = condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value)?;
                Ok(SeccompRule::new(vec![is])?)
            })
            .collect(),
        When::Mailbox(argument, end) => {
            let fd = match end {
                MailboxEnd::Controller => mailbox[0],
                MailboxEnd::Wake => mailbox[1],
            };
            let fd = u64::from(fd.cast_unsigned());
            let is = condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, fd)?;
            Ok(vec![SeccompRule::new(vec![is])?])
        }
        When::All(conditions) => {
            let all = conditions
                .iter()
                .map(|holds| match *holds {
                    Holds::Bits32(argument, mask, value) => condition(
                        argument,
                        SeccompCmpArgLen::Dword,
                        SeccompCmpOp::MaskedEq(mask.into()),
                        value.into(),
                    ),
                    Holds::Bits64(argument, mask, value) => condition(
                        argument,
                        SeccompCmpArgLen::Qword,
                        SeccompCmpOp::MaskedEq(mask),
                        value,
                    ),
                    Holds::OwnProcess(argument) => condition(
                        argument,
                        SeccompCmpArgLen::Dword,
                        SeccompCmpOp::Eq,
                        u64::from(getpid().as_raw().unsigned_abs()),
                    ),
                })
                .collect::<Result<_, FilterError>>()?;
            Ok(vec![SeccompRule::new(all)?])
        }
    }
}

fn condition(
    argument: u8,
    len: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, FilterError> {
    Ok(SeccompCondition::new(argument, len, operator, value)?)
}

fn report_violations() -> io::Result<()> {
    vmm_sys_util::signal::register_signal_handler(libc::SIGSYS, report)
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

extern "C" fn report(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let mut line = [0u8; 160];
    let mut rest = &mut line[..];
    // SAFETY: the kernel calls a handler that was installed with SA_SIGINFO with a ucontext_t.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let register = |index: libc::c_int| registers[usize::try_from(index).unwrap_or(0)];
    // The buffer is on the stack, because a signal handler must not allocate. If it is too short,
    // the line is cut off.
    let _ = writeln!(
        rest,
        "system call {} ({:#x}, {:#x}, {:#x}, {:#x}) is in no rule of this thread",
        register(libc::REG_RAX),
        register(libc::REG_RDI),
        register(libc::REG_RSI),
        register(libc::REG_RDX),
        register(libc::REG_R10),
    );
    let unused = rest.len();
    let len = line.len() - unused;
    // SAFETY: the buffer is live; both calls may be made in a signal handler.
    unsafe {
        libc::write(2, line.as_ptr().cast(), len);
        libc::_exit(128 + libc::SIGSYS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_make_filters_that_the_kernel_can_take() {
        // BPF_MAXINSNS of linux/bpf_common.h.
        let limit = 4096;
        let filters = Filters::new(Mismatch::Kill, NO_MAILBOX).unwrap();
        assert!((10..limit).contains(&filters.main.0.len()));
        assert!((10..limit).contains(&filters.vcpu.0.len()));
    }
}
