//! Which functions exist.
//!
//! [`database`] is what survives; [`catalog`] is the same in memory, together with what can run.
//! Reads never touch the database: an invocation finds its function with one look into a map.

mod catalog;
mod database;
mod documents;
mod migrations;
mod sealing;
mod target;

pub(crate) use catalog::{Catalog, Function, Published, Writer};
pub use database::RegistryError;
#[cfg(test)]
pub(crate) use database::tests::{record as test_record, version_record as test_version_record};
pub(crate) use database::{Contents, Database, Stored};
pub use sealing::{KeyError, NotOpened};
pub(crate) use target::Target;
