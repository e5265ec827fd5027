//! Client of the controller's HTTP API: [`Client`] sends requests, the submodules name the operations.
//!
//! * [`forward`]: a client's request, passed on
//! * [`function`]: Lambda's API for functions
//! * [`invocation`]: running one
//! * [`signing`]: the key that signs requests
//! * [`log`]: Hearth's own API for logs
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
