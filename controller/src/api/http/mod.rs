//! HTTP and JSON as all operations use them.
//!
//! * [`request_id`], [`trace`], [`peer`]: identifiers of requests, and the client's address
//! * [`page_check`]: refuses requests of foreign web pages
//! * [`parameters`]: the path's segments and the query
//! * [`body`], [`unread`], [`wire`]: bodies: reading within limits, handling unread rests, parsing JSON
//! * [`unserved`]: members of the API's model that are refused
//! * [`violations`], [`error`]: errors, with Lambda's texts
//! * [`response`], [`page`]: responses and lists

pub(super) mod body;
pub(super) mod error;
pub(super) mod page;
pub(super) mod page_check;
pub(super) mod parameters;
pub(super) mod peer;
pub(super) mod request_id;
pub(super) mod response;
pub(super) mod trace;
pub(super) mod unread;
pub(super) mod unserved;
pub(super) mod violations;
pub(super) mod wire;
