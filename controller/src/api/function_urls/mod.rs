//! Function URLs.
//!
//! * [`config`]: the operations that create, read, change and delete them
//! * [`function_url_layer`]: serves requests to them
//! * [`response`], [`url_stream`]: the responses, buffered or streamed
//! * [`refused_result`]: why a function's result is no response, in the function's log

pub(super) mod config;
pub(super) mod function_url_layer;
mod refused_result;
pub(super) mod response;
pub(super) mod url_stream;
