//! Which function a request is for: from a name, an ARN and a qualifier to a function and its version.
//!
//! * [`names`]: the forms of a function's name
//! * [`extract`]: the name in a request's path and query
//! * [`resolve`]: what it stands for

pub(super) mod extract;
pub(super) mod names;
pub(super) mod resolve;
