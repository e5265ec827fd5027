//! virtio-vsock (virtio 1.2, 5.10), reduced to what Hearth needs: one stream connection, between
//! one port of the host and a Unix socket.
//!
//! Start reading at [`connection`], the protocol's state machine. [`packet`] is the header, and
//! [`host_stream`] the Unix socket with the bytes that it has not taken yet. [`device`] is the
//! device; its two directions are in [`transmit`] and [`receive`].

pub mod connection;
pub mod device;
pub mod host_stream;
pub mod packet;
pub mod receive;
pub mod transmit;

pub use device::{Vsock, VsockState};
