//! The controller as its HTTP API shows it: [`Client`] sends, the submodules name the calls.
//!
//! * [`forward`]: a request that came from elsewhere
//! * [`function`]: Lambda's API for functions
//! * [`invocation`]: running one
//! * [`signing`]: with which key requests are signed
//! * [`log`]: Hearth's own API for what functions wrote
//! * [`release`]: Lambda's API for versions and aliases
//! * [`observe`]: Hearth's own API: instances

pub(crate) mod forward;
pub(crate) mod function;
pub(crate) mod invocation;
pub(crate) mod log;
pub(crate) mod observe;
mod release;
pub(crate) mod signing;
#[cfg(test)]
pub(crate) mod testing;
mod transport;

pub(crate) use transport::{Client, ClientError, RESERVED};
