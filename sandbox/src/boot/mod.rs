//! Everything that a fresh microVM needs before its first instruction: the kernel in memory, the
//! tables it finds there, and the registers of its first CPU.

pub mod command_line;
pub mod cpuid;
pub mod kernel;
pub mod layout;
pub mod mptable;
pub mod registers;
