//! Code packages: how they come in, and the links by which they are downloaded again.

pub(super) mod download;
pub(super) mod upload;
