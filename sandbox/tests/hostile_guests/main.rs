//! Hostile guests against real sandbox processes: programs at ring 0 that drive the devices'
//! registers and rings directly, and files that no correct controller passes. `HOSTILE-INPUTS.md`
//! lists the attacks by number. After each attack the sandbox either still works, or has ended with
//! a reason; it never hangs, spins, or dies of a signal.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod assembler;
mod attack;
mod block;
mod catalogue;
mod doorbell;
mod driver;
mod files;
mod mailbox;
mod platform;
mod queue_setup;
mod rings;
#[path = "../support/mod.rs"]
mod support;
mod vsock;
