//! Sandbox processes: one thread starts them, background tasks reap them.
//!
//! A sandbox has the kernel kill it when the *thread* that has forked it ends, so one thread that lives
//! as long as the controller starts all of them. `fork` takes a millisecond and more, so it should not run
//! on the threads that serve requests either.

use std::fmt::Debug;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use tracing::Span;

use super::cpu_clock::CpuClock;
use super::identity::{Identities, Identity};
use super::log_subject::LogSubject;
use super::mailbox::{Mailbox, MailboxUse};
use super::microvm::MicroVm;
use super::namespace::OwnNamespace;
use crate::limits::{CpuCgroups, CpuShare};
use crate::locks::lock;

/// The descriptors of a sandbox's sockets and of `/dev/kvm`.
const CONTROL_FD: RawFd = 3;
const AGENT_FD: RawFd = 4;
const KVM_FD: RawFd = 5;
const MAILBOX_FD: RawFd = 6;
/// Maximum number of bytes of one process in the log; the rest is discarded.
const MAX_STDERR: u64 = 256 * 1024;

/// A running sandbox process. Dropping it kills and reaps the process.
pub(crate) trait SandboxProcess: Debug + Send {
    /// The process id.
    fn pid(&self) -> u32;
    /// The CPU time that the process has used; `None` when it has ended.
    fn cpu_time(&self) -> Option<Duration>;
    /// Sets the CPU share of a function with this memory size.
    fn set_memory(&self, memory_mib: u32);
    /// Its part of the CPUs, which outlives a borrow of the process.
    fn cpu_share(&self) -> CpuShare {
        CpuShare::default()
    }
    /// Its log lines belong to this from now on.
    fn belongs_to(&self, _subject: &LogSubject) {}
}

/// Starts sandbox processes without a guest, ready for `Boot` or `Restore`.
pub(crate) trait Launcher: Debug + Send + Sync + 'static {
    /// Starts a process.
    fn launch(&self) -> Pin<Box<dyn Future<Output = Result<MicroVm, LaunchError>> + Send + '_>>;

    /// Whether it can start processes: its thread runs.
    fn is_alive(&self) -> bool {
        true
    }
}

/// Why a sandbox process could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// The program can't be started.
    #[error("can't start {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// `/dev/kvm` can't be opened.
    #[error("can't open /dev/kvm: {0}")]
    Kvm(io::Error),
    /// All user ids of the range are in use.
    #[error("no user id is left for a sandbox")]
    NoIdentity,
    /// The sockets can't be made.
    #[error("can't make sockets for a sandbox: {0}")]
    Sockets(io::Error),
    /// The process has started, but did not become a shell.
    #[error("a new sandbox did not become ready: {0}")]
    Dead(#[from] super::microvm::VmError),
    /// The controller is ending.
    #[error("the controller is ending")]
    Closed,
}

/// The settings of sandboxes' jails.
#[derive(Debug, Clone)]
pub(crate) struct JailSettings {
    /// User ids for sandboxes; `None` if the controller may not change the user of its children.
    pub(crate) identities: Option<Arc<Identities>>,
    /// Whether a sandbox that lacks a part of its jail must end.
    pub(crate) required: bool,
}

type Order = oneshot::Sender<Result<MicroVm, LaunchError>>;

/// Starts real sandbox processes.
#[derive(Debug)]
pub(crate) struct ProcessLauncher {
    orders: mpsc::UnboundedSender<Order>,
}

impl ProcessLauncher {
    /// A launcher of `program`. Ended processes are reaped by tasks on `reaper`: when all of its tasks have
    /// ended, no process is left.
    pub(crate) fn new(
        program: PathBuf,
        jail: JailSettings,
        mailbox: MailboxUse,
        cgroups: Arc<CpuCgroups>,
        reaper: TaskTracker,
    ) -> io::Result<Self> {
        let (orders, mut inbox) = mpsc::unbounded_channel::<Order>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("launcher".into())
            .spawn(move || {
                let _runtime = runtime.enter();
                let own = OwnNamespace::of_this_thread();
                while let Some(order) = inbox.blocking_recv() {
                    // If the caller has been dropped, so is the process, which ends it.
                    let _ = order.send(spawn(&program, &jail, mailbox, &own, &cgroups, &reaper));
                }
            })?;
        Ok(Self { orders })
    }
}

impl Launcher for ProcessLauncher {
    fn launch(&self) -> Pin<Box<dyn Future<Output = Result<MicroVm, LaunchError>> + Send + '_>> {
        Box::pin(async {
            let (order, result) = oneshot::channel();
            self.orders.send(order).map_err(|_| LaunchError::Closed)?;
            result.await.map_err(|_| LaunchError::Closed)?
        })
    }

    fn is_alive(&self) -> bool {
        !self.orders.is_closed()
    }
}

/// A child process with its cgroup.
#[derive(Debug)]
struct RealProcess {
    child: Option<Child>,
    share: CpuShare,
    identity: Option<Identity>,
    pid: u32,
    clock: Option<CpuClock>,
    reaper: TaskTracker,
    /// What its log lines belong to: nothing, while it is a shell.
    subject: Arc<Mutex<LogSubject>>,
}

impl SandboxProcess for RealProcess {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn cpu_time(&self) -> Option<Duration> {
        self.clock?.now()
    }

    fn set_memory(&self, memory_mib: u32) {
        if let Err(error) = self.share.set_memory(memory_mib) {
            subject(&self.subject).log(|request_id| {
                tracing::warn!(
                    pid = self.pid,
                    request_id,
                    %error,
                    "the controller could not set the CPU share of a sandbox"
                );
            });
        }
    }

    fn cpu_share(&self) -> CpuShare {
        self.share.clone()
    }

    fn belongs_to(&self, subject: &LogSubject) {
        *lock(&self.subject) = subject.clone();
    }
}

impl Drop for RealProcess {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if let Err(error) = child.start_kill() {
            tracing::debug!(pid = self.pid, %error, "the controller could not kill a sandbox");
        }
        let (share, identity, pid) = (self.share.clone(), self.identity.take(), self.pid);
        let subject = subject(&self.subject);
        self.reaper.spawn(async move {
            let cgroup = share.take().await;
            match child.wait().await {
                Ok(status) if status.signal() == Some(libc::SIGSYS) => subject.log(|request_id| {
                    tracing::error!(
                        pid,
                        request_id,
                        "the host kernel has killed a sandbox for a system call that it may not \
                         make: its guest may have broken into it"
                    );
                }),
                Ok(status) if status.signal() == Some(libc::SIGBUS) => subject.log(|request_id| {
                    tracing::error!(
                        pid,
                        request_id,
                        "the host kernel has ended a sandbox because it could not give it a page of a \
                         file (SIGBUS): the disk of the data directory is full or fails, or a \
                         snapshot was cut off"
                    );
                }),
                Ok(_) => {}
                Err(error) => subject.log(|request_id| {
                    tracing::warn!(
                        pid,
                        request_id,
                        %error,
                        "the controller could not wait for a sandbox's end"
                    );
                }),
            }
            // Dropped after the wait: a cgroup can be removed only when it is empty, and a user id must
            // not be leased again while its process lives.
            drop((cgroup, identity));
        });
    }
}

fn spawn(
    program: &PathBuf,
    jail: &JailSettings,
    mailbox: MailboxUse,
    own: &OwnNamespace,
    cgroups: &CpuCgroups,
    reaper: &TaskTracker,
) -> Result<MicroVm, LaunchError> {
    let (control, control_far) = UnixStream::pair().map_err(LaunchError::Sockets)?;
    let (agent, agent_far) = UnixStream::pair().map_err(LaunchError::Sockets)?;
    let mailbox = match mailbox {
        MailboxUse::On => Some(UnixStream::pair().map_err(LaunchError::Sockets)?),
        MailboxUse::Off => None,
    };
    let (mailbox, mailbox_far) = mailbox.unzip();
    let (control_far, agent_far) = (OwnedFd::from(control_far), OwnedFd::from(agent_far));
    let mailbox_far = mailbox_far.map(OwnedFd::from);
    let kvm = File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map_err(LaunchError::Kvm)?;
    let identity = match &jail.identities {
        Some(identities) => Some(identities.lease().ok_or(LaunchError::NoIdentity)?),
        None => None,
    };
    let mut command = Command::new(program);
    command
        .args(["--control-fd", "3", "--vsock-fd", "4", "--kvm-fd", "5"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(identity) = &identity {
        let id = identity.id().to_string();
        command.args(["--uid", &id, "--gid", &id]);
    }
    if mailbox.is_some() {
        command.args(["--mailbox-fd", "6"]);
    }
    if jail.required {
        command.arg("--require-jail");
    }
    let fds = [
        Some(control_far.as_raw_fd()),
        Some(agent_far.as_raw_fd()),
        Some(kvm.as_raw_fd()),
        mailbox_far.as_ref().map(AsRawFd::as_raw_fd),
    ];
    // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls
    // on descriptors that are open in the parent until `spawn` returns.
    unsafe {
        command.pre_exec(move || hand_over(fds));
    }
    let mut child = own
        .outside(|| command.spawn())
        .map_err(|source| LaunchError::Spawn {
            program: program.clone(),
            source,
        })?;
    drop((control_far, agent_far, kvm, mailbox_far));
    let pid = child
        .id()
        .expect("a child that was not waited for has an id");
    let subject = Arc::new(Mutex::new(LogSubject::new(Span::none())));
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(forward(pid, subject.clone(), stderr));
    }
    let share = CpuShare::new(cgroups.enter(pid));
    let process = RealProcess {
        child: Some(child),
        share,
        identity,
        pid,
        clock: CpuClock::of(pid),
        reaper: reaper.clone(),
        subject,
    };
    let mailbox = mailbox
        .map(Mailbox::new)
        .transpose()
        .map_err(LaunchError::Sockets)?;
    MicroVm::new(control, agent, mailbox, Box::new(process)).map_err(LaunchError::Sockets)
}

/// Runs in the child between fork and exec: moves sockets and KVM to their descriptors, marks all others
/// close-on-exec, and has the kernel kill the process when the controller ends.
fn hand_over(fds: [Option<RawFd>; 4]) -> io::Result<()> {
    let check = |result: i32| {
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result)
        }
    };
    // First to higher numbers: each may be at a number that another one needs.
    // SAFETY: plain system calls on descriptors that this process has.
    unsafe {
        let mut aside = [None; 4];
        for (place, fd) in aside.iter_mut().zip(fds) {
            if let Some(fd) = fd {
                *place = Some(check(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10))?);
            }
        }
        let places = [CONTROL_FD, AGENT_FD, KVM_FD, MAILBOX_FD];
        for (fd, place) in aside.into_iter().zip(places) {
            if let Some(fd) = fd {
                check(libc::dup2(fd, place))?;
            }
        }
        // Rust opens files close-on-exec; this is for descriptors that other libraries have opened.
        if libc::syscall(
            libc::SYS_close_range,
            KVM_FD + 1 + i32::from(fds[3].is_some()),
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        ) < 0
        {
            return Err(io::Error::last_os_error());
        }
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
    }
    Ok(())
}

/// Who wrote a line of a sandbox's log.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// The sandbox itself.
    Sandbox,
    /// The guest kernel, which can't go on.
    Trouble(&'a str),
    /// The guest kernel, about hardware that a microVM does not have and the like: nothing that an
    /// operator could do anything about.
    Console(&'a str),
}

impl<'a> Line<'a> {
    fn of(text: &'a str) -> Self {
        const TROUBLE: [&str; 3] = ["Kernel panic", "Oops", "BUG: "];
        match text.strip_prefix("guest: ") {
            None => Self::Sandbox,
            Some(text) if TROUBLE.iter().any(|word| text.contains(word)) => Self::Trouble(text),
            Some(text) => Self::Console(text),
        }
    }
}

/// What the lines of a sandbox belong to now.
fn subject(current: &Mutex<LogSubject>) -> LogSubject {
    lock(current).clone()
}

/// Carries a sandbox's log into this process's, up to a limit: a guest may have a hand in it.
async fn forward(pid: u32, owned_by: Arc<Mutex<LogSubject>>, mut stderr: ChildStderr) {
    let mut lines = BufReader::new((&mut stderr).take(MAX_STDERR));
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line).await {
            Ok(0) => break,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end().escape_debug().to_string();
                subject(&owned_by).log(|request_id| match Line::of(&text) {
                    Line::Sandbox => tracing::info!(target: "sandbox", pid, request_id, "{text}"),
                    Line::Trouble(text) => {
                        tracing::warn!(target: "guest", pid, request_id, "{text}");
                    }
                    Line::Console(text) => {
                        tracing::debug!(target: "guest", pid, request_id, "{text}");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(pid, %error, "the controller could not read a sandbox's log");
                break;
            }
        }
    }
    drop(lines);
    // After the limit: a full pipe would block the sandbox, so read and discard the rest.
    if let Ok(dropped @ 1..) = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await {
        subject(&owned_by).log(|request_id| {
            tracing::warn!(
                pid,
                request_id,
                dropped,
                "a sandbox has written more than {MAX_STDERR} bytes of log; the controller has \
                 dropped the rest"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_log::{LogFormat, capture};

    /// A quarter of the log at info was the guest kernels' talk about firmware.
    #[test]
    fn what_a_guest_kernel_says_is_told_from_what_the_sandbox_says() {
        let firmware = "[Firmware Bug]: TSC doesn't count with P0 frequency!";
        assert_eq!(
            Line::of(&format!("guest: {firmware}")),
            Line::Console(firmware)
        );
        let panic = "Kernel panic - not syncing: no init";
        assert_eq!(Line::of(&format!("guest: {panic}")), Line::Trouble(panic));
        assert_eq!(Line::of("hearth-sandbox: vsock: x"), Line::Sandbox);
    }

    /// Only the process id tied a sandbox's line to the call that it served.
    #[tokio::test]
    async fn a_line_of_a_sandbox_has_the_function_and_the_request_id_that_it_serves() {
        let captured = capture::log(LogFormat::Json, "info");
        let span = tracing::error_span!("instance", id = 3, function = "f");
        let subject = LogSubject::new(span);
        let owned_by = Arc::new(Mutex::new(subject.clone()));
        for (request_id, line) in [("first", "one"), ("second", "guest: Kernel panic")] {
            subject.serves(request_id);
            let mut child = Command::new("sh")
                .args(["-c", &format!("echo '{line}' >&2")])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            forward(7, owned_by.clone(), child.stderr.take().unwrap()).await;
            child.wait().await.unwrap();
        }
        for (message, target, request_id) in [
            ("one", "sandbox", "first"),
            ("Kernel panic", "guest", "second"),
        ] {
            let line = &captured.lines(message)[0];
            assert_eq!(line["target"], target);
            assert_eq!(capture::field(line, "request_id"), request_id);
            assert_eq!(capture::field(line, "function"), "f");
        }
    }
}
