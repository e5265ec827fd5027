//! The messages between Hearth's processes, without any I/O: no sockets, no files, no clocks.
//!
//! * [`agent`]: host to guest agent and back, over one virtio-vsock connection. Any other byte stream
//!   into the guest would do.
//! * [`sandbox`]: controller to sandbox process and back, over a Unix socket.
//! * [`jail`]: the parts of a sandbox process's jail, and the report of missing ones.
//! * [`mailbox`]: host to runtime and back, through pages of guest memory.
//! * [`output`]: cuts a function's output into records. Host or agent uses it, depending on which of
//!   them reads the output first.
//! * [`guest`]: facts that host and guest must agree on, such as the order of devices and port numbers.
//!
//! Everything that comes from the guest is hostile. Decoding is total: it returns an error for every
//! input that is no message, and never allocates more than its limits allow.

pub mod agent;
pub mod guest;
pub mod jail;
pub mod mailbox;
pub mod output;
pub mod sandbox;
