//! Authentication and authorization of requests.
//!
//! * [`authenticate`]: the layer that checks signatures
//! * [`authorize`]: the layer that checks the permissions of the signing key
//! * [`action`]: the IAM action of a route

pub(super) mod action;
pub(super) mod authenticate;
pub(super) mod authorize;
