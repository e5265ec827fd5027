//! Snapshots: a state file with everything that KVM and the devices know, and a memory file beside
//! it. Both are written under other names, flushed and renamed: a snapshot is whole or absent.

pub mod memory_file;
pub mod state_file;
