//! Invocations.
//!
//! * [`request`]: headers and payload, as all three operations read them
//! * [`invoke`]: the operation `Invoke`
//! * [`invoke_stream`], [`event_stream`]: the operation `InvokeWithResponseStream`, and its frames
//! * [`invoke_async`]: the operation `InvokeAsync`

pub(super) mod event_stream;
pub(super) mod invoke;
pub(super) mod invoke_async;
pub(super) mod invoke_stream;
pub(super) mod request;
mod tenant;
