//! Instances: who serves which invocation, how many there may be, and what becomes of them.
//!
//! * [`concurrency`]: how many invocations may run at once, and whose.
//! * [`job`]: an invocation on its way to an instance, and what comes back.
//! * [`state`]: the book-keeping. One value behind one lock, without I/O: every decision is a
//!   function of it. [`entry`] is what it keeps, [`room`] makes room.
//! * [`dispatch`]: the face: submit, wait, list, retire, drain.
//! * [`provision`]: instances that are kept ready.
//! * [`shells`]: sandbox processes built ahead of need.
//! * [`lifecycle`]: the task that an instance is, from shell to end.
//! * [`warm_up`]: a restore without an invocation.
//! * [`initialize`]: a start by init, of functions that must not start from a snapshot of after it.
//! * [`streaming`]: results that come in pieces.
//! * [`conversation`]: one invocation's messages.
//! * [`output`]: where what it writes goes.
//! * [`answer`]: how it ended, in Lambda's words.

mod answer;
mod concurrency;
mod conversation;
mod dispatch;
#[cfg(test)]
pub(crate) mod double;
mod entry;
mod initialize;
mod job;
mod leave;
mod lifecycle;
mod output;
mod ping;
mod provision;
mod room;
mod shells;
mod state;
mod streaming;
#[cfg(test)]
mod tests;
mod warm_up;

pub(crate) use answer::ERROR_KINDS;
pub(crate) use concurrency::Claim;
pub(crate) use dispatch::{ArtefactSource, PingError, Pool, PoolSettings};
pub(crate) use job::{Completed, Invocation, Limits, NotRun, Start};
pub(crate) use shells::Shells;
pub(crate) use streaming::{Next, Opened, Streamed};
