//! Prepares a new microVM for its first instruction: the kernel in memory, the tables that it reads
//! there, and the registers of the first vCPU.

pub mod command_line;
pub mod cpuid;
pub mod kernel;
pub mod layout;
pub mod mptable;
pub mod registers;
