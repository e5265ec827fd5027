//! The pool decides which instance serves which invocation, and starts and ends instances.
//!
//! * [`concurrency`]: how many invocations may run at once, per account and function.
//! * [`job`]: an invocation with its limits, and its result.
//! * [`state`]: all instances and waiting invocations, in one value behind one lock. It makes every
//!   decision, without I/O. [`entry`] has its types, [`eviction`] ends instances.
//! * [`admission`]: which waiting invocation gets the next start. [`queued`]: how an invocation waits.
//!   [`starting`]: how long a start counts as one.
//! * [`dispatch`]: the pool's interface: submit, list, retire, drain.
//! * [`assembly`]: puts a pool together.
//! * [`provision`]: provisioned concurrency: instances that are kept ready.
//! * [`shares`]: what one function may have of the host, and what it can't lose to others.
//!   [`reservations`]: what is set aside.
//! * [`shells`]: sandbox processes that are started ahead of need.
//! * [`lifecycle`]: the task of an instance, from shell to end; [`idle`]: what it does between two
//!   invocations. [`readiness`]: how its microVM is before an invocation.
//! * [`shut_down`]: the end of an instance whose function has extensions.
//! * [`warm_up`]: restores an instance without an invocation.
//! * [`initialize`]: starts an instance from the runtime snapshot and runs the function's init in it, for
//!   functions that must not start from a function snapshot.
//! * [`streaming`]: results that the client gets as the function writes them; [`parts`] has their parts.
//! * [`conversation`]: the messages of one invocation.
//! * [`output`]: writes an invocation's output to the log.
//! * [`ping`]: measures round trips to the agent.
//! * [`timeouts`]: maximum times of all that.
//! * [`answer`]: how an invocation ended, with Lambda's names and texts.

mod admission;
mod answer;
mod assembly;
mod concurrency;
mod conversation;
mod dispatch;
#[cfg(test)]
pub(crate) mod double;
mod entry;
mod eviction;
mod idle;
mod initialize;
mod job;
mod lifecycle;
mod output;
mod parts;
mod ping;
mod provision;
mod queued;
mod readiness;
mod reservations;
mod shares;
mod shells;
mod shut_down;
mod starting;
mod state;
mod streaming;
#[cfg(test)]
mod tests;
mod timeouts;
mod warm_up;

pub(crate) use answer::ERROR_KINDS;
pub(crate) use concurrency::Claim;
pub(crate) use dispatch::{ArtefactSource, PingError, Pool, PoolSettings};
pub(crate) use job::{Completed, Invocation, Limits, NotRun, Start};
pub(crate) use shells::Shells;
#[cfg(test)]
pub(crate) use state::tests::version as test_version;
pub(crate) use streaming::{Next, Opened, Streamed};
#[cfg(test)]
pub(crate) use tests::pool as test_pool;
