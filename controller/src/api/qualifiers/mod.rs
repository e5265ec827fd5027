//! The operations on versions and aliases.

pub(super) mod aliases;
pub(super) mod versions;
