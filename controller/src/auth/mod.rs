//! Authentication and permissions: access keys, and AWS's Signature Version 4 checked in full.
//!
//! A client signs a request with its access key's secret, which it never sends. Client and controller
//! both turn the request into the same canonical text and compute an HMAC of it; a request that was
//! changed on the way, or signed with another secret, has another HMAC. The signature's date limits
//! replays: as on AWS, the controller does not remember signatures, but accepts each for no more than
//! five minutes before and after its date (a presigned URL: until it expires).
//!
//! * [`key`]: one key, and its permissions
//! * [`key_file`]: the keys in the data directory; creates and revokes them
//! * [`key_ring`]: the keys in a running controller, which follows changes of the file
//! * [`presented`]: parses the signature in a request's header or query
//! * [`canonical`]: the text that is signed
//! * [`signature`]: the HMAC of that text
//! * [`verify`]: all checks of a request, in AWS's order
//! * [`authentication`]: whether clients have to sign at all
//! * [`sign`]: signs a request, for the command line
//! * [`error`]: the errors, with AWS's types and messages
//!
//! Nothing here reads a body or knows a route: `api::access` does.

mod authentication;
mod canonical;
mod error;
mod key;
mod key_file;
mod key_ring;
mod presented;
mod random;
mod sign;
mod signature;
mod timestamp;
mod verify;
#[cfg(test)]
mod verify_tests;

pub use authentication::AuthSetupError;
pub(crate) use authentication::Authentication;
pub(crate) use error::AuthError;
pub use key::{AccessKey, KeyError, Permissions};
pub use key_file::{KeyFile, KeysError, NewKey};
pub use sign::{Credentials, signed_headers};
pub(crate) use signature::BodyHash;
pub(crate) use verify::Verifier;

/// The service in a credential's scope.
const SERVICE: &str = "lambda";
/// The only supported algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The last part of every credential's scope.
const TERMINATOR: &str = "aws4_request";
