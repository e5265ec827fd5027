//! Function URLs: HTTP requests become events in Lambda's payload format 2.0, and a function's result
//! becomes an HTTP response.
//!
//! * [`address`]: recognizes a function URL by path or host
//! * [`index`]: finds the function of a URL's id
//! * [`mod@event`]: from a request to an event
//! * [`answer`]: from a result to a response
//! * [`prelude`]: from the prelude of a streamed result to a response's status and headers
//! * [`cors`]: preflights and CORS headers
//! * [`own_origin`]: keeps pages of functions apart from each other and from the API
//!
//! All of this is pure. `api::function_urls` reads requests and runs functions.

mod address;
mod answer;
mod cors;
mod event;
mod index;
mod own_origin;
mod prelude;

pub(crate) use address::{Address, of as address_of};
pub(crate) use answer::{Malformed, response};
pub(crate) use cors::{add_cors_headers, allows_origin, is_preflight, preflight};
pub(crate) use event::{Caller, Incoming, event};
pub(crate) use index::UrlIndex;
pub(crate) use own_origin::{is_for_service_worker, isolate};
pub(crate) use prelude::{INTEGRATION_RESPONSE, Prelude, SplitError, with_prelude};
