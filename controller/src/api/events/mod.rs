//! Asynchronous invocations, and the configuration of their retries and destinations.
//!
//! * [`mod@accept`]: stores an event in the queue
//! * [`event_invoke_config`], [`destinations`]: retries, maximum age and destinations

pub(super) mod accept;
pub(super) mod destinations;
pub(super) mod event_invoke_config;

pub(super) use accept::{accept, forget};
