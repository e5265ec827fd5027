//! Versions and aliases: what a function's qualifier stands for.

pub(super) mod aliases;
pub(super) mod versions;
