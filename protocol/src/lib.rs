//! The messages between Hearth's processes, and nothing else: no sockets, no files, no clocks.
//!
//! * [`agent`]: host to guest agent and back, over one virtio-vsock connection (or whatever else
//!   carries a byte stream into the guest).
//! * [`sandbox`]: controller to sandbox process and back, over a Unix socket.
//! * [`jail`]: what a sandbox process says of what it is locked up in.
//! * [`mailbox`]: host and runtime, through pages of guest memory.
//! * [`output`]: what a function writes, cut into records; for whoever reads it first.
//! * [`guest`]: facts that host and guest must agree on, such as device order and port numbers.
//!
//! Everything that arrives from the guest is hostile. Decoding here is total: it returns an error
//! for every input that is not a message, and never allocates more than its limits allow.

pub mod agent;
pub mod guest;
pub mod jail;
pub mod mailbox;
pub mod output;
pub mod sandbox;
