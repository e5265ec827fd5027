//! Snapshots: a state file with everything that KVM and the devices know, and a memory file. Both
//! were opened by the owner, under names that mean nothing yet; both are flushed before the owner
//! hears that they are whole, and it gives them their names then.

pub mod memory_file;
pub mod state_file;
pub mod unique;
