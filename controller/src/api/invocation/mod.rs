//! Invocations.
//!
//! * [`request`]: what a request to run a function says
//! * [`invoke`]: `Invoke`
//! * [`invoke_stream`], [`event_stream`]: `InvokeWithResponseStream` and its frames
//! * [`invoke_async`]: `InvokeAsync`

pub(super) mod event_stream;
pub(super) mod invoke;
pub(super) mod invoke_async;
pub(super) mod invoke_stream;
pub(super) mod request;
