//! A microVM: the [`shell`] that is prepared ahead, the [`machine`] that a boot or a restore makes
//! of it, its [`devices`], and the [`state`] that goes into a snapshot.

pub mod devices;
pub mod error;
pub mod machine;
pub mod shell;
pub mod state;
