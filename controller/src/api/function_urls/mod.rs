//! Function URLs.
//!
//! * [`config`]: the operations that make and change them
//! * [`function_url_layer`]: what comes in by them
//! * [`response`], [`url_stream`]: what goes out, at once or as the function writes it

pub(super) mod config;
pub(super) mod function_url_layer;
pub(super) mod response;
pub(super) mod url_stream;
