//! The address that a request comes from.

use std::net::SocketAddr;

/// The address of the client at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);
