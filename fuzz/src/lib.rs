//! Fuzz targets. Each passes arbitrary bytes to a part of Hearth that handles hostile input, and fails
//! when a property of that part is violated.
//!
//! | target | what is hostile | what must hold, besides that nothing panics |
//! | --- | --- | --- |
//! | [`mmio`] | a driver that sets a device up in any order | a device out of service touches no ring; work ends; what can be saved can be restored, and is the same |
//! | [`block`] | block requests on any ring | a correct request gets its sectors, an invalid one an error; the disk is unchanged |
//! | [`vsock`] | packets, credit, and when each end closes | bytes arrive in order, none twice, none beyond the credit |
//! | [`state_file`] | a snapshot's state file | devices of an accepted state can be used and saved again |
//! | [`frames`] | both ends of the agent's connection, and the control channel | the frames don't depend on how the stream is cut; a message survives its own encoding |
//! | [`zip`] | a code package | an accepted package unpacks to what it declared, and nothing outside of its folder |
//! | [`mailbox`] | a guest's mailbox pages and rings, and a controller's bytes; for the controller, the guest's answers and output | only the mailbox's pages change; an answer has the bytes of the pages; a thread that was woken does not wait; records don't depend on how output is cut |
//!
//! For the first three, the bytes are a script: [`script`] reads it and [`world`] executes it.

pub mod block;
pub mod frames;
pub mod mailbox;
pub mod mmio;
pub mod script;
pub mod state_file;
pub mod vsock;
pub mod world;
pub mod zip;

/// A target's name, and the function that takes one input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("mmio", mmio::run),
    ("block", block::run),
    ("vsock", vsock::run),
    ("state_file", state_file::run),
    ("frames", frames::run),
    ("zip", zip::run),
    ("mailbox", mailbox::run),
];
