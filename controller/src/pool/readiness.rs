//! How a microVM is before an invocation, and so what has to be done for the runtime to get an event.
//!
//! ```text
//! Shell ------ restore, or restore and init -----> an invocation
//! Running ---- event ----------------------------> an invocation
//! Paused ----- resume, event --------------------> an invocation
//! AtMailbox -- event through the mailbox --------> an invocation
//!
//! an invocation -- the runtime asks its agent for the next event ---> Running
//!               \- the runtime asks for it at the mailbox ----------> AtMailbox
//! AtMailbox -- the runtime is sent to its agent ---> Running
//! Running -- pause ---> Paused
//! ```

use std::sync::Arc;

use crate::function::Artefacts;

/// How a microVM is before an invocation.
#[derive(Debug, Clone)]
pub(super) enum Readiness {
    /// It is a shell, and these are the artefacts to start from.
    Shell(Arc<Artefacts>),
    /// It is paused, or about to be, and its runtime waits at the agent.
    Paused,
    /// Its runtime waits at the mailbox, and the vCPU does not run.
    AtMailbox,
    /// It runs, and its runtime waits at the agent.
    Running {
        /// Whether the sandbox still enforces the CPU budget of the last invocation. Only a resume sets
        /// or removes a budget.
        budgeted: bool,
    },
}

impl Readiness {
    /// Whether there is no guest yet.
    pub(super) fn is_shell(&self) -> bool {
        matches!(self, Self::Shell(_))
    }
}
