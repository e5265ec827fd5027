//! Hearth's guest agent: PID 1 of every microVM.
//!
//! It prepares the machine, connects to the host, and from then on is a single-threaded event loop
//! between the host and the function's runtime; see [`agent`]. It must never just exit, and after a
//! restore it must serve nothing before the instance has its own clock and random numbers.

mod agent;
mod bootstrap;
mod cgroup;
mod clock;
mod code;
mod cpu_time;
mod entropy;
mod environment;
mod exit;
mod extensions;
mod generators;
mod host_link;
mod lifecycle;
mod machine;
mod mailbox;
mod memory;
mod outbox;
mod output;
mod page_cache;
mod power;
mod runtime_api;
mod scheduling;
mod spawn;
mod telemetry;
mod vsock;

use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::agent::Agent;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("hearth-agent is the init of a Hearth microVM and runs as process 1 only");
        return ExitCode::FAILURE;
    }
    std::panic::set_hook(Box::new(|panic| {
        log_to_kernel(&panic.to_string());
        power::off();
    }));
    if let Err(error) = serve() {
        log_to_kernel(&error.to_string());
    }
    power::off()
}

/// Runs until the host ends it, or until an error makes the microVM useless.
fn serve() -> anyhow::Result<()> {
    memory::configure_allocator();
    machine::prepare()?;
    page_cache::fill()?;
    scheduling::let_others_finish()?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let children = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut agent = Agent::new(children)?;
    memory::settle()?;
    if let Err(error) = agent.run().and_then(|()| agent.kill_all()) {
        agent.report_fatal(&error);
        return Err(error.into());
    }
    Ok(())
}

/// Writes to the guest kernel's log, which the host sees even when the connection has failed. The agent
/// writes nothing else there.
fn log_to_kernel(message: &str) {
    // If this fails too, there is no other way to report it.
    let _ = OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(format!("<2>hearth-agent: {message}\n").as_bytes()));
}
