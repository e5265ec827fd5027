//! Starts the runtime's process: another user, no privileges, Lambda's limits, its own cgroup.
//!
//! It uses `clone(CLONE_VM | CLONE_VFORK)`, not `fork`: no page tables are copied, and the agent's pages
//! are not write-protected, which would cost the agent a fault for each of them in the first
//! invocations. Until it calls `execve` the child runs in the agent's memory, so it makes only system
//! calls on what was prepared before.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{io, ptr};

use hearth_protocol::guest::{CLOCK_PORT, CLOCK_PORTS, FUNCTION_UID, MAILBOX_FD};
use hearth_protocol::mailbox::{DOORBELL_PORT, DOORBELL_PORTS};
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::mailbox::Descriptors;

/// Lambda's resource limits, as measured there. The cgroup limits memory.
const LIMITS: [(libc::__rlimit_resource_t, libc::rlim_t); 5] = [
    (libc::RLIMIT_NOFILE, 1024),
    (libc::RLIMIT_NPROC, 742),
    (libc::RLIMIT_STACK, 8 << 20),
    (libc::RLIMIT_MEMLOCK, 64 << 10),
    (libc::RLIMIT_CORE, 0),
];

/// The descriptor to which a runtime writes log messages as frames. It is the same pipe as its output.
pub(crate) const LOG_FD: c_int = 3;

const DIRECTORY: &CStr = c"/var/task";
const CHILD_STACK: usize = 64 << 10;

/// The step at which the child failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Clone,
    JoinCgroup,
    Session,
    Output,
    Mailbox,
    Limits,
    Identity,
    Privileges,
    Directory,
    Exec,
}

/// Why a runtime was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("opening /dev/null: {0}")]
    Null(io::Error),
    #[error("the path {0:?} has a NUL byte")]
    Path(String),
    /// The program cannot be executed. The text is Lambda's.
    #[error("fork/exec {path}: {}", exec_text(*.errno))]
    Exec { path: String, errno: Errno },
    #[error("starting the runtime failed at {step}: {errno}")]
    Setup { step: String, errno: Errno },
}

/// Go's text, hence Lambda's, for the most frequent errors of `execve`.
fn exec_text(errno: Errno) -> String {
    match errno {
        Errno::ENOEXEC => "exec format error".to_owned(),
        Errno::EACCES => "permission denied".to_owned(),
        Errno::ENOENT => "no such file or directory".to_owned(),
        other => other.desc().to_lowercase(),
    }
}

/// What the child needs, and where it stores its failure.
struct Plan<'a> {
    program: &'a CStr,
    argv: [*const c_char; 2],
    environment: Vec<*const c_char>,
    null: c_int,
    output: c_int,
    cgroup_procs: c_int,
    mailbox: Option<Descriptors>,
    failed: Option<(Step, Errno)>,
}

/// Starts `program`. Its stdout and stderr are the one descriptor `output`, so that their order is kept.
/// With a mailbox it may ring its doorbell. Returns when the program has been loaded or has failed to.
pub(crate) fn start(
    program: &str,
    environment: &[CString],
    output: BorrowedFd<'_>,
    cgroup_procs: BorrowedFd<'_>,
    mailbox: Option<Descriptors>,
) -> Result<Pid, SpawnError> {
    let null = File::open("/dev/null").map_err(SpawnError::Null)?;
    let path = CString::new(program).map_err(|_| SpawnError::Path(program.to_owned()))?;
    let mut plan = Plan {
        program: &path,
        argv: [path.as_ptr(), ptr::null()],
        environment: environment
            .iter()
            .map(|variable| variable.as_ptr())
            .chain([ptr::null()])
            .collect(),
        null: null.as_raw_fd(),
        output: output.as_raw_fd(),
        cgroup_procs: cgroup_procs.as_raw_fd(),
        mailbox,
        failed: None,
    };
    let mut stack = vec![0u128; CHILD_STACK / size_of::<u128>()];
    // SAFETY: `stack` is 16-byte aligned memory that outlives the child's use of it, and one past its end
    // is the top that `clone` wants. CLONE_VFORK suspends this thread, the only one, until the child has
    // called `execve` or `_exit`, so that parent and child never access `plan` and `stack` at the same
    // time. `child` makes only system calls.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr_range().end.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut plan).cast(),
        )
    };
    let pid = match Errno::result(pid) {
        Ok(pid) => pid,
        Err(errno) => {
            return Err(SpawnError::Setup {
                step: format!("{:?}", Step::Clone),
                errno,
            });
        }
    };
    match plan.failed {
        None => Ok(Pid::from_raw(pid)),
        // The child has called `_exit`. The event loop reaps it as it does every child.
        Some((Step::Exec, errno)) => Err(SpawnError::Exec {
            path: program.to_owned(),
            errno,
        }),
        Some((step, errno)) => Err(SpawnError::Setup {
            step: format!("{step:?}"),
            errno,
        }),
    }
}

/// The child's side: from the clone to `execve`.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `start` passes its own `Plan` and is suspended while this runs.
    let plan = unsafe { &mut *plan.cast::<Plan<'_>>() };
    // SAFETY: as `become_runtime` demands, this is the child of `start`'s clone.
    plan.failed = unsafe { become_runtime(plan) }.err();
    // SAFETY: ends the child without running destructors or handlers of the agent, whose memory it shares.
    unsafe { libc::_exit(127) }
}

/// Only returns if it fails.
///
/// # Safety
/// Must be called in a child of `clone` without `CLONE_FILES`, `CLONE_FS` and `CLONE_SIGHAND`: it
/// changes descriptors, directory, signals and identity of the process. All pointers in `plan`
/// must be good.
unsafe fn become_runtime(plan: &Plan<'_>) -> Result<(), (Step, Errno)> {
    // Raw system calls where glibc's wrapper would do more: the wrappers of the set*id family signal all
    // threads of the process, and this child shares the agent's memory.
    //
    // SAFETY: system calls on constants, on descriptors that are open, and on the
    // pointers that the caller vouches for.
    unsafe {
        let done = |step: Step, result: i64| match result {
            -1 => Err((step, Errno::last())),
            _ => Ok(()),
        };
        let c = i64::from;
        done(
            Step::JoinCgroup,
            libc::write(plan.cgroup_procs, c"0".as_ptr().cast(), 1) as i64,
        )?;
        done(Step::Session, c(libc::setsid()))?;
        let mut mailbox = plan.mailbox;
        for fd in mailbox.iter_mut().flatten() {
            // Above the descriptor numbers that are assigned below.
            *fd = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 16);
            done(Step::Mailbox, c(*fd))?;
        }
        done(Step::Output, c(libc::dup2(plan.null, 0)))?;
        done(Step::Output, c(libc::dup2(plan.output, 1)))?;
        done(Step::Output, c(libc::dup2(plan.output, 2)))?;
        // The agent opens everything close-on-exec. This makes sure of it.
        done(
            Step::Output,
            libc::syscall(
                libc::SYS_close_range,
                3u32,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            ),
        )?;
        // From 1 and not from `plan.output`, which may be this descriptor.
        done(Step::Output, c(libc::dup2(1, LOG_FD)))?;
        if let Some([pages, output]) = mailbox {
            done(Step::Mailbox, c(libc::dup2(pages, MAILBOX_FD)))?;
            done(Step::Mailbox, c(libc::dup2(output, MAILBOX_FD + 1)))?;
        }
        for (resource, value) in LIMITS {
            let limit = libc::rlimit {
                rlim_cur: value,
                rlim_max: value,
            };
            done(Step::Limits, c(libc::setrlimit(resource, &raw const limit)))?;
        }
        // The child inherits access to the agent's ports. Only the agent may read the host's clock, and
        // only a runtime with a mailbox may ring the doorbell. An error means that there was no access.
        libc::ioperm(libc::c_ulong::from(CLOCK_PORT), CLOCK_PORTS, 0);
        if mailbox.is_none() {
            libc::ioperm(libc::c_ulong::from(DOORBELL_PORT), DOORBELL_PORTS, 0);
        }
        // EINVAL means that there is no capability of this number or above.
        let mut capability: libc::c_ulong = 0;
        while libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) == 0 {
            capability += 1;
        }
        if Errno::last() != Errno::EINVAL {
            return Err((Step::Privileges, Errno::last()));
        }
        let id = FUNCTION_UID;
        let nobody_else = ptr::null::<libc::gid_t>();
        done(
            Step::Identity,
            libc::syscall(libc::SYS_setgroups, 0usize, nobody_else),
        )?;
        done(
            Step::Identity,
            libc::syscall(libc::SYS_setresgid, id, id, id),
        )?;
        done(
            Step::Identity,
            libc::syscall(libc::SYS_setresuid, id, id, id),
        )?;
        done(
            Step::Privileges,
            c(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
        )?;
        done(Step::Directory, c(libc::chdir(DIRECTORY.as_ptr())))?;
        libc::umask(0o022);
        // Rust ignores SIGPIPE, and an ignored signal stays ignored over `execve`; the agent's
        // blocked signals stay blocked.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::execve(
            plan.program.as_ptr(),
            plan.argv.as_ptr(),
            plan.environment.as_ptr(),
        );
        Err((Step::Exec, Errno::last()))
    }
}
