//! The registry's file: SQLite in WAL mode, every write on disk before it is answered.
//!
//! One thread owns the connection; callers wait for it without blocking theirs. A record is stored
//! as one JSON document beside the columns that lists are made of: the document's fields belong to
//! [`FunctionRecord`], not to SQL.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use crate::function::{FunctionName, FunctionRecord};

/// Why the registry could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// SQLite failed.
    #[error("registry {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A stored document can't be read.
    #[error("registry: record of function {name:?}: {source}")]
    Document {
        /// Whose.
        name: String,
        /// What the parser said.
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
    /// The thread is gone.
    #[error("the registry's thread has ended")]
    Closed,
}

/// Schema changes in order. A file's `user_version` is how many of them it has.
const MIGRATIONS: [&str; 1] = ["CREATE TABLE functions (
    name TEXT PRIMARY KEY NOT NULL,
    document TEXT NOT NULL
) STRICT, WITHOUT ROWID"];

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The connection's thread.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    jobs: mpsc::UnboundedSender<Job>,
    path: PathBuf,
}

impl Database {
    /// Opens the file, making or migrating it, and returns it with all its records.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<FunctionRecord>), RegistryError> {
        let sqlite = |source| RegistryError::Sqlite {
            path: path.into(),
            source,
        };
        let mut connection = Connection::open(path).map_err(sqlite)?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(sqlite)?;
        connection
            .pragma_update(None, "synchronous", "FULL")
            .map_err(sqlite)?;
        connection
            .busy_timeout(std::time::Duration::from_secs(5))
            .map_err(sqlite)?;
        migrate(&mut connection, path)?;
        let records = read_all(&connection, path)?;
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
            },
            records,
        ))
    }

    /// Writes a record, new or changed.
    pub(crate) async fn put(&self, record: &FunctionRecord) -> Result<(), RegistryError> {
        let name = record.name.to_string();
        let document = serde_json::to_string(record).map_err(|source| RegistryError::Document {
            name: name.clone(),
            source,
        })?;
        self.execute(move |connection| {
            connection.execute(
                "INSERT INTO functions (name, document) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET document = excluded.document",
                params![name, document],
            )
        })
        .await
    }

    /// Removes a record.
    pub(crate) async fn delete(&self, name: &FunctionName) -> Result<(), RegistryError> {
        let name = name.to_string();
        self.execute(move |connection| {
            connection.execute("DELETE FROM functions WHERE name = ?1", params![name])
        })
        .await
    }

    async fn execute(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<usize> + Send + 'static,
    ) -> Result<(), RegistryError> {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // A caller that is gone does not need to know.
            let _ = done.send(work(connection));
        });
        self.jobs.send(job).map_err(|_| RegistryError::Closed)?;
        result
            .await
            .map_err(|_| RegistryError::Closed)?
            .map(drop)
            .map_err(|source| RegistryError::Sqlite {
                path: self.path.clone(),
                source,
            })
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), RegistryError> {
    let sqlite = |source| RegistryError::Sqlite {
        path: path.into(),
        source,
    };
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(sqlite)?;
    let done = usize::try_from(found)
        .ok()
        .filter(|done| *done <= MIGRATIONS.len())
        .ok_or(RegistryError::TooNew {
            path: path.into(),
            found,
            known: MIGRATIONS.len(),
        })?;
    for (version, statement) in (1i64..).zip(MIGRATIONS).skip(done) {
        let step = connection.transaction().map_err(sqlite)?;
        step.execute_batch(statement).map_err(sqlite)?;
        step.pragma_update(None, "user_version", version)
            .map_err(sqlite)?;
        step.commit().map_err(sqlite)?;
    }
    Ok(())
}

fn read_all(connection: &Connection, path: &Path) -> Result<Vec<FunctionRecord>, RegistryError> {
    let sqlite = |source| RegistryError::Sqlite {
        path: path.into(),
        source,
    };
    let mut select = connection
        .prepare("SELECT name, document FROM functions ORDER BY name")
        .map_err(sqlite)?;
    let rows = select
        .query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })
        .map_err(sqlite)?;
    let mut records = Vec::new();
    for row in rows {
        let (name, document) = row.map_err(sqlite)?;
        records.push(
            serde_json::from_str(&document)
                .map_err(|source| RegistryError::Document { name, source })?,
        );
    }
    Ok(records)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::function::{Code, Environment, FunctionConfig, Runtime, State, Status};

    pub(crate) fn record(name: &str) -> FunctionRecord {
        FunctionRecord {
            name: FunctionName::parse(name).unwrap(),
            config: FunctionConfig {
                runtime: Runtime::Provided,
                handler: "bootstrap".into(),
                role: "arn:aws:iam::000000000000:role/r".into(),
                description: String::new(),
                timeout_seconds: 3,
                memory_mib: 128,
                ephemeral_storage_mib: 512,
                environment: Environment(BTreeMap::from([("K".into(), "V".into())])),
                tracing_mode: "PassThrough".into(),
                snap_start: "None".into(),
                tags: BTreeMap::new(),
            },
            code: Code {
                sha256: "0".repeat(64),
                size: 1,
            },
            revision_id: "r".into(),
            last_modified: "2026-11-22T08:00:00.000+0000".into(),
            state: Status::plain(State::Active),
            last_update: None,
            pending_deploy: None,
            deployed: None,
        }
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_reopening_and_what_was_deleted_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        let (database, none) = Database::open(&path).unwrap();
        assert!(none.is_empty());
        let (a, b) = (record("a"), record("b"));
        database.put(&a).await.unwrap();
        database.put(&b).await.unwrap();
        let changed = FunctionRecord {
            revision_id: "s".into(),
            ..a
        };
        database.put(&changed).await.unwrap();
        database.delete(&b.name).await.unwrap();
        drop(database);
        let (_database, records) = Database::open(&path).unwrap();
        assert_eq!(records, [changed]);
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            Database::open(&path),
            Err(RegistryError::TooNew {
                found: 99,
                known: 1,
                ..
            })
        ));
    }

    #[test]
    fn a_file_that_is_no_database_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        std::fs::write(&path, [0x55; 4096]).unwrap();
        let error = Database::open(&path).unwrap_err().to_string();
        assert!(error.contains("registry.db"), "{error}");
    }
}
