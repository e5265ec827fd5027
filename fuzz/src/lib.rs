//! Fuzz targets: each takes arbitrary bytes to a place where Hearth meets a stranger's, and fails
//! when something happens there that must not.
//!
//! | target | what is hostile | what must hold, besides that nothing panics |
//! | --- | --- | --- |
//! | [`mmio`] | a driver that sets a device up in any order | a device out of service touches no ring; work ends; what can be saved can be restored, and is the same |
//! | [`block`] | block requests on any ring | an honest request gets its sectors, a wrong one an error; the disk stays as it is |
//! | [`vsock`] | packets, credit, both ends' closing | bytes arrive in order, none twice, none beyond the credit |
//! | [`state_file`] | a snapshot's state file | what is accepted are devices that can be used and saved again |
//! | [`frames`] | both ends of the agent's connection, and the control channel | cutting the stream elsewhere gives the same frames; a message survives its own encoding |
//! | [`zip`] | a code package | what is accepted unpacks to what it declared, and nothing lies outside |
//! | [`mailbox`] | a guest's mailbox pages and rings, an owner's bytes; at the owner's end the guest's word | only the mailbox's pages change; an answer is what the pages had; nothing waits that was woken; output is the same however it is cut |
//!
//! The bytes of the first three are a script: [`script`] reads it, [`world`] plays it.

pub mod block;
pub mod frames;
pub mod mailbox;
pub mod mmio;
pub mod script;
pub mod state_file;
pub mod vsock;
pub mod world;
pub mod zip;

/// A target's name and what it does with one input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 7] = [
    ("mmio", mmio::run),
    ("block", block::run),
    ("vsock", vsock::run),
    ("state_file", state_file::run),
    ("frames", frames::run),
    ("zip", zip::run),
    ("mailbox", mailbox::run),
];
