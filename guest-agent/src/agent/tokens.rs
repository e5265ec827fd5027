//! The numbers under which the agent's epoll set reports its descriptors.

use crate::extensions::MAX_EXTENSIONS;
use crate::lifecycle::ConnectionId;

pub(super) const OUTPUT: u64 = 0;
pub(super) const HOST: u64 = 1;
pub(super) const LISTENER: u64 = 2;
pub(super) const CHILDREN: u64 = 3;
pub(super) const LOCAL_LISTENER: u64 = 4;
pub(super) const EXTENSION_OUTPUT: u64 = 5;
/// The first connection of the Runtime API; the others follow by their index.
pub(super) const CONNECTIONS: u64 = 16;
/// The first connection to a telemetry subscriber; the others follow by their index.
pub(super) const SUBSCRIBERS: u64 = CONNECTIONS + MAX_CONNECTIONS as u64;

/// Maximum connections of the Runtime API: more than any runtime opens together with its extensions.
pub(super) const MAX_CONNECTIONS: usize = 48;
/// Maximum events of one `epoll_wait`. One call must report every ready descriptor: the agent sends
/// output before answers by handling the events of one call in its own order.
pub(super) const MAX_EVENTS: usize = 6 + MAX_CONNECTIONS + MAX_EXTENSIONS;

/// What a token of [`CONNECTIONS`] or above stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Client(ConnectionId),
    Subscriber(usize),
}

impl Peer {
    /// The peer of `token`; `None` for a token below [`CONNECTIONS`].
    pub(super) fn of(token: u64) -> Option<Self> {
        let index = |first| {
            let index = token.checked_sub(first)?;
            Some(usize::try_from(index).expect("indices were made from usize"))
        };
        match (index(SUBSCRIBERS), index(CONNECTIONS)) {
            (Some(index), _) => Some(Self::Subscriber(index)),
            (None, Some(index)) => Some(Self::Client(ConnectionId(index))),
            (None, None) => None,
        }
    }
}

/// The token of a connection of the Runtime API.
pub(super) fn of_connection(id: ConnectionId) -> u64 {
    CONNECTIONS + id.0 as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_and_subscriber_has_a_token_of_its_own() {
        for index in [0, MAX_CONNECTIONS - 1] {
            let id = ConnectionId(index);
            assert_eq!(Peer::of(of_connection(id)), Some(Peer::Client(id)));
        }
        assert_eq!(Peer::of(SUBSCRIBERS), Some(Peer::Subscriber(0)));
        for token in [OUTPUT, HOST, LISTENER, CHILDREN, LOCAL_LISTENER] {
            assert_eq!(Peer::of(token), None);
        }
        assert_eq!(Peer::of(EXTENSION_OUTPUT), None);
    }
}
