//! Snapshots: a state file (vCPUs, VM, devices) and a memory file. The controller opens both under
//! temporary names. The sandbox flushes both before it replies, and only then the controller gives
//! them their names; so a file under its final name is always complete.

pub mod memory_file;
pub mod state_file;
pub mod unique;
