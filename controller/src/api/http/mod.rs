//! HTTP and JSON, whatever the operation: what a request consists of, what an answer looks like.
//!
//! * [`request_id`], [`trace`], [`peer`]: what a request is known by, and where it comes from
//! * [`parameters`]: the path's segments and the query
//! * [`body`], [`unread`], [`wire`]: bodies read within limits, left unread, parsed as JSON
//! * [`violations`], [`error`]: what is wrong with a request, in Lambda's words
//! * [`response`], [`page`]: answers and lists

pub(super) mod body;
pub(super) mod error;
pub(super) mod page;
pub(super) mod parameters;
pub(super) mod peer;
pub(super) mod request_id;
pub(super) mod response;
pub(super) mod trace;
pub(super) mod unread;
pub(super) mod violations;
pub(super) mod wire;
