//! One instance: a sandbox process, the sockets to it, and the conversation over them.
//!
//! * [`errand`]: commands with the files that go with them.
//! * [`identity`], [`namespace`]: what a sandbox is given to be alone with.
//! * [`stream`]: bytes to the guest and back.
//! * [`mailbox`]: events and answers that need no agent.
//! * [`process`]: starting, measuring and ending sandbox processes.
//! * [`microvm`]: commands to the sandbox and frames to the agent, as one stream of events.
//! * [`init`]: a function's init.
//! * [`entropy`]: what a restored guest's generator is reseeded with.
//!
//! Everything that comes out of a microVM is hostile. A microVM that says what it should not is
//! ended; nothing that it says reaches another function.

mod cpu_clock;
mod entropy;
mod errand;
mod identity;
mod init;
mod mailbox;
mod memory;
mod microvm;
mod namespace;
mod process;
mod stream;

pub(crate) use entropy::{realtime_ns, thaw};
pub(crate) use errand::{BootFrom, Errand, RestoreFrom, SnapshotOutput};
pub(crate) use identity::Identities;
pub(crate) use init::{Init, InitError, init, unexpected};
pub(crate) use mailbox::{MailboxAnswer, MailboxUse, MailboxWord};
pub(crate) use memory::{private_bytes, pss_kib};
pub(crate) use microvm::{MicroVm, VmError, VmEvent, outcome};
#[cfg(test)]
pub(crate) use process::SandboxProcess;
pub(crate) use process::{JailSettings, LaunchError, Launcher, ProcessLauncher};
#[cfg(test)]
pub(crate) use stream::socket_pair;
