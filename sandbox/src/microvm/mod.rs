//! A microVM from shell to end: an empty VM prepared ahead ([`shell`]), its devices
//! ([`devices`]), its vCPUs, and the snapshot of it all ([`state`]).

pub mod devices;
pub mod error;
pub mod machine;
pub mod shell;
pub mod state;
