//! `hearth-sandbox`: one process, one microVM. See `hearth_protocol::sandbox` for what it
//! understands, and `ExitReason::code` for its exit status.

use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use hearth_protocol::sandbox::{ExitReason, Exited};
use hearth_sandbox::event_loop::EventLoop;

/// Runs one microVM, controlled over a Unix socket.
///
/// The owner passes two connected Unix stream sockets as file descriptors. By hand, two paths to
/// listen on do as well: the first connection to each is taken, and the path removed.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Inherited descriptor of the control socket
    #[arg(
        long,
        conflicts_with = "control_socket",
        required_unless_present = "control_socket"
    )]
    control_fd: Option<RawFd>,
    /// Inherited descriptor of the agent's byte stream
    #[arg(
        long,
        conflicts_with = "vsock_socket",
        required_unless_present = "vsock_socket"
    )]
    vsock_fd: Option<RawFd>,
    /// Path to listen on for the control connection
    #[arg(long)]
    control_socket: Option<PathBuf>,
    /// Path to listen on for the agent's byte stream
    #[arg(long)]
    vsock_socket: Option<PathBuf>,
}

fn main() -> ExitCode {
    let end = match sockets(&Arguments::parse()) {
        Ok((control, vsock)) => match EventLoop::new(control, vsock) {
            Ok(event_loop) => event_loop.run(),
            Err(e) => Exited {
                reason: ExitReason::InternalError,
                detail: format!("preparing a VM: {e}"),
            },
        },
        Err(e) => Exited {
            reason: ExitReason::Usage,
            detail: format!("{e:#}"),
        },
    };
    last_words(&end);
    ExitCode::from(end.reason.code())
}

/// One JSON line. Nobody may be listening any more, and then there is nobody to tell of it.
fn last_words(end: &Exited) {
    let line = serde_json::to_string(end).unwrap_or_default();
    if writeln!(io::stdout(), "{line}").is_err() {
        eprintln!("{line}");
    }
}

fn sockets(arguments: &Arguments) -> anyhow::Result<(UnixStream, UnixStream)> {
    if arguments.control_fd.is_some() && arguments.control_fd == arguments.vsock_fd {
        bail!("--control-fd and --vsock-fd name the same descriptor");
    }
    let control = socket(arguments.control_fd, arguments.control_socket.as_deref())
        .context("control socket")?;
    let vsock =
        socket(arguments.vsock_fd, arguments.vsock_socket.as_deref()).context("vsock socket")?;
    Ok((control, vsock))
}

fn socket(fd: Option<RawFd>, path: Option<&Path>) -> anyhow::Result<UnixStream> {
    if let Some(fd) = fd {
        return inherited(fd);
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

fn inherited(fd: RawFd) -> anyhow::Result<UnixStream> {
    if fd <= 2 {
        bail!("descriptor {fd} is a standard stream");
    }
    nix::fcntl::fcntl(
        // SAFETY: only asks whether the descriptor is open; it is not kept.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) },
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .with_context(|| format!("descriptor {fd}"))?;
    // SAFETY: the descriptor is open, was passed to this process by its owner for this purpose,
    // and nothing else in this process has it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let stream = UnixStream::from(owned);
    stream
        .local_addr()
        .with_context(|| format!("descriptor {fd} is no Unix socket"))?;
    Ok(stream)
}
