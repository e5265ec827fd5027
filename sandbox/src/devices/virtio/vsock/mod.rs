//! virtio-vsock (virtio 1.2, 5.10), cut down to what Hearth needs: one stream between one port of
//! the host and a Unix socket.
//!
//! [`packet`] is the header, [`connection`] the protocol's state machine (start reading there),
//! [`host_stream`] the Unix socket with what it has not taken yet. [`device`] is the device; its
//! two directions are in [`transmit`] and [`receive`].

pub mod connection;
pub mod device;
pub mod host_stream;
pub mod packet;
pub mod receive;
pub mod transmit;

pub use device::{Vsock, VsockState};
