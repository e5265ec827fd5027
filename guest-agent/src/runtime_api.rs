//! The Lambda Runtime API, version 2018-06-01, on loopback: HTTP/1.1 as far as runtimes use it.
//!
//! * [`request`] and [`chunked`] parse a connection's bytes into requests, within limits.
//! * [`route`] maps method and path to a request of the API.
//! * [`reply`] renders replies, each for one `send`.
//! * [`connection`] is one client's socket.
//!
//! What a request *means* is decided by [`crate::lifecycle`].

pub(crate) mod chunked;
pub(crate) mod connection;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod route;
pub(crate) mod socket;
