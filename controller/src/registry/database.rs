//! The registry's file: SQLite in WAL mode. A write is on disk when its call returns.
//!
//! One thread owns the connection; callers await its replies. A record is stored as one JSON document
//! beside the columns of its key: only [`FunctionRecord`] knows the document's fields, not SQL.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use super::documents::{from_document, to_document};
use super::encryption::{Cipher, KeyError, NotDecrypted};
use super::migrations::{migrate, schema};
use crate::function::{FunctionName, FunctionRecord, LayerRecord, VersionRecord};
use crate::sqlite::make_durable;

/// Why the registry could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// SQLite failed.
    #[error("registry {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// A stored document can't be read.
    #[error("registry: record of function {name:?}: {source}")]
    Document {
        /// The function's name.
        name: String,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The file was written by a newer version of this program.
    #[error("registry {} has schema {found}, this version knows up to {known}: use a newer hearthd", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that this program knows.
        known: usize,
    },
    /// The key of environment variables can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A stored document's environment variables can't be decrypted.
    #[error("registry: function {name:?}: {source}")]
    NotDecrypted {
        /// The function's name.
        name: String,
        /// The reason.
        source: NotDecrypted,
    },
    /// The registry's thread has ended.
    #[error("the registry's thread has ended")]
    Closed,
}

/// All stored records.
#[derive(Debug)]
pub(crate) struct Contents {
    /// In the order of their names.
    pub(crate) functions: Vec<Stored>,
    pub(crate) layers: Vec<LayerRecord>,
}

/// The stored records of a function and its versions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) record: FunctionRecord,
    /// In the order of their numbers.
    pub(crate) versions: Vec<VersionRecord>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Sends work to the thread that owns the connection.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    jobs: mpsc::UnboundedSender<Job>,
    path: PathBuf,
    cipher: Cipher,
}

impl Database {
    /// Opens the file, creating or migrating it if needed, and returns it with all records. `key` is the
    /// file of the encryption key; it is made if the registry has no encrypted values yet.
    pub(crate) fn open(path: &Path, key: &Path) -> Result<(Self, Contents), RegistryError> {
        let sqlite = |source| RegistryError::Sqlite {
            path: path.into(),
            source,
        };
        let mut connection = Connection::open(path).map_err(sqlite)?;
        make_durable(&connection).map_err(sqlite)?;
        let cipher = Cipher::open(key, !schema(&connection, path)?.is_encrypted())?;
        migrate(&mut connection, path, &cipher)?;
        let contents = read_all(&connection, path, &cipher)?;
        let (jobs, mut inbox) = mpsc::unbounded_channel::<Job>();
        std::thread::Builder::new()
            .name("registry".into())
            .spawn(move || {
                while let Some(job) = inbox.blocking_recv() {
                    job(&mut connection);
                }
            })
            .map_err(|_| RegistryError::Closed)?;
        Ok((
            Self {
                jobs,
                path: path.into(),
                cipher,
            },
            contents,
        ))
    }

    /// Writes a new or changed function with its new or changed versions, and removes other versions, in
    /// one transaction.
    pub(crate) async fn put(
        &self,
        record: &FunctionRecord,
        versions: impl Iterator<Item = &VersionRecord>,
        removed: Vec<u32>,
    ) -> Result<(), RegistryError> {
        let name = record.name.to_string();
        let document = to_document(&self.cipher, &name, record)?;
        let versions = versions
            .map(|version| Ok((version.number, to_document(&self.cipher, &name, version)?)))
            .collect::<Result<Vec<_>, RegistryError>>()?;
        self.execute(move |connection| {
            let change = connection.transaction()?;
            change.execute(
                "INSERT INTO functions (name, document) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET document = excluded.document",
                params![name, document],
            )?;
            for (number, document) in versions {
                change.execute(
                    "INSERT INTO versions (function, number, document) VALUES (?1, ?2, ?3)
                     ON CONFLICT (function, number) DO UPDATE SET document = excluded.document",
                    params![name, number, document],
                )?;
            }
            for number in removed {
                change.execute(
                    "DELETE FROM versions WHERE function = ?1 AND number = ?2",
                    params![name, number],
                )?;
            }
            change.commit()
        })
        .await
    }

    /// Writes a new or changed layer.
    pub(crate) async fn put_layer(&self, layer: &LayerRecord) -> Result<(), RegistryError> {
        let name = layer.name.to_string();
        let document = to_document(&self.cipher, &name, layer)?;
        self.execute(move |connection| {
            connection
                .execute(
                    "INSERT INTO layers (name, document) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET document = excluded.document",
                    params![name, document],
                )
                .map(drop)
        })
        .await
    }

    /// Removes a function with its versions.
    pub(crate) async fn delete(&self, name: &FunctionName) -> Result<(), RegistryError> {
        let name = name.to_string();
        self.execute(move |connection| {
            let change = connection.transaction()?;
            change.execute("DELETE FROM functions WHERE name = ?1", params![name])?;
            change.execute("DELETE FROM versions WHERE function = ?1", params![name])?;
            change.commit()
        })
        .await
    }

    async fn execute(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), RegistryError> {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // The caller may have been dropped.
            let _ = done.send(work(connection));
        });
        self.jobs.send(job).map_err(|_| RegistryError::Closed)?;
        result
            .await
            .map_err(|_| RegistryError::Closed)?
            .map_err(|source| RegistryError::Sqlite {
                path: self.path.clone(),
                source,
            })
    }
}

fn read_all(
    connection: &Connection,
    path: &Path,
    cipher: &Cipher,
) -> Result<Contents, RegistryError> {
    let rows = |query: &str| {
        let mut select = connection.prepare(query)?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<Vec<(String, String)>>>()
    };
    let sqlite = |source| RegistryError::Sqlite {
        path: path.into(),
        source,
    };
    let mut functions = Vec::new();
    for (name, document) in
        rows("SELECT name, document FROM functions ORDER BY name").map_err(sqlite)?
    {
        functions.push(Stored {
            record: from_document(cipher, &name, &document)?,
            versions: Vec::new(),
        });
    }
    for (name, document) in
        rows("SELECT function, document FROM versions ORDER BY function, number").map_err(sqlite)?
    {
        let version = from_document(cipher, &name, &document)?;
        let at = functions.binary_search_by(|known| known.record.name.as_str().cmp(&name));
        // A function and its versions are written and removed in one transaction, so a version without
        // its function was not written by us: skip it.
        if let Ok(at) = at {
            functions[at].versions.push(version);
        }
    }
    let mut layers = Vec::new();
    for (name, document) in rows("SELECT name, document FROM layers").map_err(sqlite)? {
        layers.push(from_document(cipher, &name, &document)?);
    }
    Ok(Contents { functions, layers })
}

#[cfg(test)]
#[path = "database_tests.rs"]
pub(crate) mod tests;
