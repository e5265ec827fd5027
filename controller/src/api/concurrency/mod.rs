//! Concurrency: reserved, provisioned, and the account's limits.

pub(super) mod account;
pub(super) mod provisioned;
pub(super) mod reserved;
