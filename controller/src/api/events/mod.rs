//! Events: invocations whose callers do not wait, and what a function wants done with them.
//!
//! * [`mod@accept`]: into the queue
//! * [`event_invoke_config`], [`destinations`]: retries, age and destinations

pub(super) mod accept;
pub(super) mod destinations;
pub(super) mod event_invoke_config;

pub(super) use accept::{accept, forget};
