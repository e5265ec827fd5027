//! Who calls, and what they may do: access keys, and AWS's Signature Version 4 checked in full.
//!
//! A request is signed with an access key's secret, which never travels. Both sides write the
//! request down in one canonical text and compute an HMAC of it; a request that was changed on the
//! way, or signed with another secret, has another HMAC. What is in the way of a replay is the
//! signature's date: as on AWS there is no memory of signatures seen, but each is worth nothing
//! five minutes before and after its date (a presigned URL: until it expires).
//!
//! * [`key`]: one key, and what it permits
//! * [`key_file`]: the keys in the data directory, made and revoked
//! * [`key_ring`]: how a running controller sees them change
//! * [`presented`]: what a request says of itself, in its header or in its query
//! * [`canonical`]: the text that is signed
//! * [`signature`]: the HMAC over it
//! * [`verify`]: the order in which all of it is checked
//! * [`gate`]: whether callers have to sign at all
//! * [`sign`]: the other side, for the command line
//! * [`error`]: every refusal, in AWS's words
//!
//! Nothing here reads a body or knows a route: `api::access` does.

mod canonical;
mod error;
mod gate;
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

pub(crate) use error::AuthError;
pub(crate) use gate::Gate;
pub use gate::GateError;
pub use key::{AccessKey, KeyError, Permissions};
pub use key_file::{KeyFile, KeysError, NewKey};
pub use sign::{Credentials, signed_headers};
pub(crate) use signature::BodyHash;
pub(crate) use verify::Verifier;

/// The service that callers sign for.
const SERVICE: &str = "lambda";
/// The only algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The last part of every credential's scope.
const TERMINATOR: &str = "aws4_request";
