//! The registry of functions and layers.
//!
//! [`database`] stores the records on disk; [`catalog`] holds the same records in memory, together with
//! the versions that can run. Reads never use the database: an invocation finds its function in a map.

mod catalog;
mod damage;
mod database;
mod documents;
mod encryption;
mod mark;
mod migrations;
mod packages_in_use;
mod target;

pub(crate) use catalog::{Catalog, Function, Published, Writer};
#[cfg(test)]
pub(crate) use database::tests::{record as test_record, version_record as test_version_record};
pub(crate) use database::{Contents, Database, Stored};
pub use database::{RegistryError, find_damage};
pub use encryption::{KeyError, NotDecrypted};
pub(crate) use mark::Continuity;
pub(crate) use target::{NoVersion, Target};
