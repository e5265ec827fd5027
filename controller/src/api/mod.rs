//! The HTTP API: Lambda's, function URLs, and Hearth's own. `docs/api.md` describes each operation.
//!
//! A request goes through the layers of [`mod@router`] to the handler that [`operations`] names, and its
//! response goes back the same way. A module imports only modules that stand before it in this list:
//!
//! * [`http`]: requests, bodies, responses and errors, for all operations
//! * [`packages`]: upload and download of code
//! * [`app`]: the state that all handlers share
//! * [`target`]: from a function's name to a function and its version
//! * [`change`]: changes that run to their end even if the client disconnects
//! * [`access`]: authentication and authorization
//! * [`traffic`]: the count of requests, and a line in the log for each change
//! * [`concurrency`], [`events`], [`layers`], [`functions`], [`policies`], [`invocation`],
//!   [`qualifiers`] (versions and aliases), [`function_urls`]: the operations of Lambda's API
//! * [`hearth`]: the operations of Hearth's own API
//! * [`operations`]: the table of all operations
//! * [`mod@router`]: the layers around them
//!
//! Every response has `x-amzn-RequestId`, every error also `x-amzn-ErrorType` and a JSON body. Only
//! [`http::error`] turns errors into responses. A body that does not fit the operation's model is a
//! `SerializationException` ([`http::wire`]). All other violations of the request's form are collected
//! in one `ValidationException` ([`http::violations`]) before anything is looked up.

mod access;
mod app;
mod change;
mod concurrency;
mod events;
mod function_urls;
mod functions;
mod hearth;
mod http;
mod invocation;
mod layers;
mod operations;
mod packages;
mod policies;
mod qualifiers;
mod router;
mod target;
mod traffic;

pub(crate) use app::App;
pub(crate) use http::peer::Peer;
pub(crate) use packages::download::Downloads;
pub(crate) use router::{monitoring, router};
