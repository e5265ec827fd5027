//! `hearth-sandbox`: one process is one microVM. `hearth_protocol::sandbox` has its commands, and
//! `ExitReason::code` its exit statuses.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use hearth_protocol::jail::JailPart;
use hearth_protocol::sandbox::{Event, ExitReason, Exited, Message, encode};
use hearth_sandbox::event_loop::EventLoop;
use hearth_sandbox::fault_signals;
use hearth_sandbox::jail::{self, Filters, HostResources, Identity, Mismatch, NO_MAILBOX};
use hearth_sandbox::mailbox::MailboxSocket;
use hearth_sandbox::microvm::machine::Sockets;
use hearth_sandbox::microvm::shell::{MAX_VCPUS, Shell};
use nix::sched::{CloneFlags, unshare};

/// Runs one microVM, controlled over a Unix socket.
///
/// The controller passes two connected Unix stream sockets as file descriptors. To run a sandbox by
/// hand, give two paths to listen on: it takes the first connection to each and removes the path.
/// Before the process reads its first command, it enters a jail, as far as its privileges allow; see
/// SECURITY.md.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Inherited descriptor of the control socket
    #[arg(
        long,
        conflicts_with = "control_socket",
        required_unless_present_any = ["control_socket", "report_jail"]
    )]
    control_fd: Option<RawFd>,
    /// Inherited descriptor of the agent's byte stream
    #[arg(
        long,
        conflicts_with = "vsock_socket",
        required_unless_present_any = ["vsock_socket", "report_jail"]
    )]
    vsock_fd: Option<RawFd>,
    /// Inherited descriptor of the mailbox's byte stream
    #[arg(long)]
    mailbox_fd: Option<RawFd>,
    /// Path to listen on for the control connection
    #[arg(long)]
    control_socket: Option<PathBuf>,
    /// Path to listen on for the agent's byte stream
    #[arg(long)]
    vsock_socket: Option<PathBuf>,
    /// Inherited descriptor of /dev/kvm [default: the sandbox opens it]
    #[arg(long)]
    kvm_fd: Option<RawFd>,
    /// User to become; no other process should have it. Needs root
    #[arg(long, requires = "gid")]
    uid: Option<u32>,
    /// Group to become
    #[arg(long, requires = "uid")]
    gid: Option<u32>,
    /// Number of vCPUs of the microVM; one thread is started for each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_VCPUS)))]
    vcpus: u8,
    /// Enter the jail, print the missing parts as JSON, and end
    #[arg(long)]
    report_jail: bool,
    /// End unless every part of the jail is in force
    #[arg(long)]
    require_jail: bool,
    /// Development: report a system call that no rule allows, instead of being killed for it
    #[arg(long, hide = true)]
    report_violations: bool,
}

fn main() -> ExitCode {
    fault_signals::use_default_actions();
    let arguments = Arguments::parse();
    if arguments.report_jail {
        return report_jail(&arguments);
    }
    let end = match sockets(&arguments) {
        Ok((control, vsock)) => run(&arguments, control, vsock),
        Err(e) => usage(&e),
    };
    print_end(&end);
    ExitCode::from(end.reason.code())
}

/// For `hearth doctor`: prints which parts of the jail a sandbox that is started here lacks.
fn report_jail(arguments: &Arguments) -> ExitCode {
    // The controller would create this namespace; the question is only whether it can be created.
    let processes = unshare(CloneFlags::CLONE_NEWPID).is_ok();
    let report = identity(arguments).and_then(|identity| {
        let mut jail = jail::enter(identity)?;
        Filters::new(Mismatch::Kill, NO_MAILBOX)?.main.install()?;
        jail.missing
            .retain(|missing| !(processes && missing.part == JailPart::Processes));
        Ok(serde_json::to_string(&jail)?)
    });
    match report {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn identity(arguments: &Arguments) -> anyhow::Result<Option<Identity>> {
    match (arguments.uid, arguments.gid) {
        (Some(uid), Some(gid)) => Ok(Some(Identity::new(uid, gid)?)),
        _ => Ok(None),
    }
}

fn usage(e: &anyhow::Error) -> Exited {
    Exited {
        reason: ExitReason::Usage,
        detail: format!("{e:#}"),
    }
}

/// Runs the sandbox from the first command to the end.
fn run(arguments: &Arguments, control: UnixStream, vsock: UnixStream) -> Exited {
    let copy = match control.try_clone() {
        Ok(copy) => copy,
        Err(e) => return usage(&anyhow::Error::from(e).context("control socket")),
    };
    match prepare(arguments, control, vsock, &copy) {
        Ok(event_loop) => {
            drop(copy);
            event_loop.run()
        }
        Err(end) => {
            report_end(copy, &end);
            end
        }
    }
}

/// Reports to the controller, which may be gone, why this process ends without a microVM.
fn report_end(mut control: UnixStream, end: &Exited) {
    let message = Message::Event(Event::Exited(end.clone()));
    let sent = encode(&message)
        .map_err(io::Error::other)
        .and_then(|bytes| control.write_all(&bytes));
    if let Err(e) = sent {
        eprintln!("reporting the end to the controller: {e}");
    }
}

/// Enters the jail and prepares a shell; the filter of this thread comes last.
fn prepare(
    arguments: &Arguments,
    control: UnixStream,
    vsock: UnixStream,
    copy: &UnixStream,
) -> Result<EventLoop, Exited> {
    let failed = |what: &'static str| {
        move |e: &dyn std::fmt::Display| Exited {
            reason: ExitReason::InternalError,
            detail: format!("{what}: {e}"),
        }
    };
    let kvm = arguments
        .kvm_fd
        .map(|fd| inherited(fd).context("KVM"))
        .transpose()
        .map_err(|e| usage(&e))?;
    let mailbox = arguments
        .mailbox_fd
        .map(|fd| anyhow::Ok(MailboxSocket::new(socket(Some(fd), None)?)?).context("mailbox"))
        .transpose()
        .map_err(|e| usage(&e))?;
    let identity = identity(arguments).map_err(|e| usage(&e))?;
    let mut keep = vec![control.as_raw_fd(), vsock.as_raw_fd(), copy.as_raw_fd()];
    keep.extend(kvm.as_ref().map(AsRawFd::as_raw_fd));
    let own = mailbox
        .as_ref()
        .map_or(NO_MAILBOX, MailboxSocket::descriptors);
    keep.extend(mailbox.is_some().then_some(own).into_iter().flatten());
    // SAFETY: the process has opened nothing else yet, and uses no other inherited descriptor.
    unsafe { jail::descriptors::close_all_but(&keep) }
        .map_err(|e| failed("closing inherited descriptors")(&e))?;
    // SAFETY: there is one thread, and nothing holds a reference into the environment.
    unsafe { jail::environment::wipe() };
    let resources = HostResources::open(kvm).map_err(|e| failed("preparing")(&e))?;
    let jail = jail::enter(identity).map_err(|e| failed("preparing")(&e))?;
    if arguments.require_jail && !jail.is_complete() {
        return Err(failed("the jail is not complete")(&jail));
    }
    let mismatch = if arguments.report_violations {
        Mismatch::Report
    } else {
        Mismatch::Kill
    };
    let filters = Filters::new(mismatch, own).map_err(|e| failed("preparing")(&e))?;
    let shell = Shell::new(resources, arguments.vcpus, &filters.vcpu)
        .map_err(|e| failed("preparing a VM")(&e))?;
    let event_loop = EventLoop::new(control, Sockets { vsock, mailbox }, shell, jail)
        .map_err(|e| failed("preparing a VM")(&e))?;
    filters
        .main
        .install()
        .map_err(|e| failed("preparing")(&e))?;
    Ok(event_loop)
}

/// Prints the reason of the end as one JSON line. If standard output is closed, it goes to standard
/// error.
fn print_end(end: &Exited) {
    let line = serde_json::to_string(end).unwrap_or_default();
    if writeln!(io::stdout(), "{line}").is_err() {
        eprintln!("{line}");
    }
}

fn sockets(arguments: &Arguments) -> anyhow::Result<(UnixStream, UnixStream)> {
    let given = [
        arguments.control_fd,
        arguments.vsock_fd,
        arguments.kvm_fd,
        arguments.mailbox_fd,
    ];
    for (n, fd) in given.iter().enumerate() {
        if fd.is_some() && given[n + 1..].contains(fd) {
            bail!(
                "two of --control-fd, --vsock-fd, --kvm-fd and --mailbox-fd name the same descriptor"
            );
        }
    }
    let control = socket(arguments.control_fd, arguments.control_socket.as_deref())
        .context("control socket")?;
    let vsock =
        socket(arguments.vsock_fd, arguments.vsock_socket.as_deref()).context("vsock socket")?;
    Ok((control, vsock))
}

fn socket(fd: Option<RawFd>, path: Option<&Path>) -> anyhow::Result<UnixStream> {
    if let Some(fd) = fd {
        let stream = UnixStream::from(inherited(fd)?);
        stream
            .local_addr()
            .with_context(|| format!("descriptor {fd} is no Unix socket"))?;
        return Ok(stream);
    }
    let path = path.context("neither a descriptor nor a path was given")?;
    let listener =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    let (stream, _) = listener
        .accept()
        .with_context(|| format!("{}", path.display()))?;
    std::fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    Ok(stream)
}

fn inherited(fd: RawFd) -> anyhow::Result<OwnedFd> {
    if fd <= 2 {
        bail!("descriptor {fd} is a standard stream");
    }
    nix::fcntl::fcntl(
        // SAFETY: only asks whether the descriptor is open; it is not kept.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) },
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .with_context(|| format!("descriptor {fd}"))?;
    // SAFETY: the descriptor is open, was passed to this process for this purpose,
    // and nothing else in this process has it: `sockets` refuses the same number twice.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
