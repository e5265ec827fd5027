//! Code packages: upload, and the links by which clients download them.

pub(super) mod download;
pub(super) mod upload;
