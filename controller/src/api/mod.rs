//! The HTTP API: Lambda's, function URLs, and Hearth's own. `docs/api.md` describes each operation.
//!
//! A request goes through the layers of [`mod@router`] to the handler that [`operations`] names, and its
//! answer goes back the same way. A module imports only modules that stand before it in this list:
//!
//! * [`http`]: requests, bodies, answers and errors, whatever the operation
//! * [`packages`]: code that is uploaded, and downloaded again
//! * [`app`]: the parts of the controller that handlers work with
//! * [`target`]: from a function's name to a function and its version
//! * [`change`]: changes that are done to their end, also when the client goes away
//! * [`access`]: who calls, and what they may do
//! * [`traffic`]: requests counted by their route, and changes in the log
//! * [`concurrency`], [`events`], [`layers`], [`functions`], [`policies`], [`invocation`],
//!   [`qualifiers`] (versions and aliases), [`function_urls`]: the operations of Lambda's API
//! * [`hearth`]: the operations of Hearth's own API
//! * [`operations`]: the table of all operations
//! * [`mod@router`]: the layers around them
//!
//! Every answer has `x-amzn-RequestId`, every error `x-amzn-ErrorType` and a JSON body. Errors become
//! answers in [`http::error`] alone. A body that does not fit the operation's model is a
//! `SerializationException` ([`http::wire`]); all else that is wrong with the form of a request is
//! collected in one `ValidationException` ([`http::violations`]) before anything is looked up.

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
