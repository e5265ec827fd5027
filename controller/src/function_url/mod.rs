//! Function URLs: HTTP requests become events in Lambda's payload format 2.0, and what a function
//! answers becomes a response.
//!
//! * [`address`]: which function a request is for, by its path or its host
//! * [`index`]: which function has the URL of an id
//! * [`event`]: from a request to an event
//! * [`answer`]: from a result to a response
//! * [`prelude`]: from the beginning of a streamed result to that of a response
//! * [`cors`]: what browsers ask before they ask, and are told with every answer
//!
//! Nothing here waits or runs anything: `api::function_urls` does.

mod address;
mod answer;
mod cors;
mod event;
mod index;
mod prelude;

pub(crate) use address::{Address, of as address_of};
pub(crate) use answer::response;
pub(crate) use cors::{is_preflight, preflight, tell};
pub(crate) use event::{Caller, Incoming, event};
pub(crate) use index::UrlIndex;
pub(crate) use prelude::{INTEGRATION_RESPONSE, Prelude, SplitError, with_prelude};
