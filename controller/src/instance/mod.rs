//! One instance: its sandbox process and the sockets to it.
//!
//! * [`command_with_files`]: commands with the files that they need.
//! * [`identity`], [`namespace`]: a user id and a process id namespace for each sandbox.
//! * [`stream`]: byte streams to and from the sandbox.
//! * [`mailbox`]: events and answers through the mailbox.
//! * [`process`]: starts, measures and ends sandbox processes.
//! * [`microvm`]: commands to the sandbox and messages to the agent; everything that comes back is one
//!   stream of events.
//! * [`exchange`]: waits for one of these events, with a deadline.
//! * [`init`](mod@init): runs a function's init.
//! * [`log_subject`]: what the log lines about a microVM belong to.
//! * [`entropy`]: time and entropy for a restored guest.
//!
//! Everything that comes out of a microVM is hostile. A microVM that sends an unexpected message is
//! ended; nothing that it sends reaches another function.

mod command_with_files;
mod cpu_clock;
mod entropy;
mod exchange;
mod identity;
mod init;
mod log_subject;
mod mailbox;
mod memory;
mod microvm;
mod namespace;
mod process;
mod stream;

pub(crate) use command_with_files::{BootFrom, CommandWithFiles, RestoreFrom, SnapshotOutput};
pub(crate) use entropy::{realtime_ns, thaw};
pub(crate) use exchange::{Deadline, START_LIMIT, Step, outcome};
pub(crate) use identity::Identities;
pub(crate) use init::{Init, InitError, init};
pub(crate) use log_subject::LogSubject;
pub(crate) use mailbox::{MailboxAnswer, MailboxUse, MailboxWord};
pub(crate) use memory::{private_bytes, pss_kib};
pub(crate) use microvm::{MicroVm, VmError, VmEvent};
#[cfg(test)]
pub(crate) use process::SandboxProcess;
pub(crate) use process::{JailSettings, LaunchError, Launcher, ProcessLauncher};
#[cfg(test)]
pub(crate) use stream::socket_pair;
