//! Who gets in and how far.
//!
//! * [`authenticate`]: whose signature a request has
//! * [`authorize`]: whether that caller may do what the route does
//! * [`action`]: what a route does, in IAM's words

pub(super) mod action;
pub(super) mod authenticate;
pub(super) mod authorize;
