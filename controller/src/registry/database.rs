//! The registry's file: SQLite in WAL mode, every write on disk before it is answered.
//!
//! One thread owns the connection; callers wait for it without blocking theirs. A record is stored
//! as one JSON document beside the columns that lists are made of: the document's fields belong to
//! [`FunctionRecord`], not to SQL.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use super::documents::{from_document, to_document};
use super::migrations::{migrate, schema};
use super::sealing::{KeyError, NotOpened, Sealer};
use crate::function::{FunctionName, FunctionRecord, VersionRecord};

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
    /// The key that environment variables are encrypted with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A stored document's secrets can't be read.
    #[error("registry: function {name:?}: {source}")]
    Sealed {
        /// Whose.
        name: String,
        /// What is wrong with them.
        source: NotOpened,
    },
    /// The thread is gone.
    #[error("the registry's thread has ended")]
    Closed,
}

/// A function with its versions, as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) record: FunctionRecord,
    /// In the order of their numbers.
    pub(crate) versions: Vec<VersionRecord>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The connection's thread.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    jobs: mpsc::UnboundedSender<Job>,
    path: PathBuf,
    sealer: Sealer,
}

impl Database {
    /// Opens the file, making or migrating it, and returns it with all its records. `key` is the
    /// file with the key for secrets; it is made where nothing was encrypted yet.
    pub(crate) fn open(path: &Path, key: &Path) -> Result<(Self, Vec<Stored>), RegistryError> {
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
        let sealer = Sealer::open(key, !schema(&connection, path)?.is_sealed())?;
        migrate(&mut connection, path, &sealer)?;
        let records = read_all(&connection, path, &sealer)?;
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
                sealer,
            },
            records,
        ))
    }

    /// Writes a function, new or changed, the versions of it that are new or changed, and the
    /// removal of others: all of it or nothing.
    pub(crate) async fn put(
        &self,
        record: &FunctionRecord,
        versions: impl Iterator<Item = &VersionRecord>,
        removed: Vec<u32>,
    ) -> Result<(), RegistryError> {
        let name = record.name.to_string();
        let document = to_document(&self.sealer, &name, record)?;
        let versions = versions
            .map(|version| Ok((version.number, to_document(&self.sealer, &name, version)?)))
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
            // A caller that is gone does not need to know.
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
    sealer: &Sealer,
) -> Result<Vec<Stored>, RegistryError> {
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
            record: from_document(sealer, &name, &document)?,
            versions: Vec::new(),
        });
    }
    for (name, document) in
        rows("SELECT function, document FROM versions ORDER BY function, number").map_err(sqlite)?
    {
        let version = from_document(sealer, &name, &document)?;
        let at = functions.binary_search_by(|known| known.record.name.as_str().cmp(&name));
        // Both are written and removed together: one without the other is not ours.
        if let Ok(at) = at {
            functions[at].versions.push(version);
        }
    }
    Ok(functions)
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
            last_version: 0,
            aliases: BTreeMap::new(),
            reserved_concurrency: None,
            tags: BTreeMap::new(),
            policies: BTreeMap::new(),
        }
    }

    pub(crate) fn version_record(number: u32) -> VersionRecord {
        let record = record("any");
        VersionRecord {
            number,
            config: record.config,
            code: record.code,
            description: "as it was".into(),
            revision_id: "r".into(),
            last_modified: record.last_modified,
            state: record.state,
            pending_deploy: None,
            made: None,
        }
    }

    async fn put(database: &Database, record: &FunctionRecord) {
        let none = std::iter::empty();
        database.put(record, none, Vec::new()).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_reopening_and_what_was_deleted_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        let (database, none) = Database::open(&path, &path.with_extension("key")).unwrap();
        assert!(none.is_empty());
        let (a, b) = (record("a"), record("b"));
        put(&database, &a).await;
        put(&database, &b).await;
        let changed = FunctionRecord {
            revision_id: "s".into(),
            ..a
        };
        put(&database, &changed).await;
        database.delete(&b.name).await.unwrap();
        drop(database);
        let (_database, stored) = Database::open(&path, &path.with_extension("key")).unwrap();
        let expected = Stored {
            record: changed,
            versions: Vec::new(),
        };
        assert_eq!(stored, [expected]);
    }

    #[tokio::test]
    async fn versions_come_back_with_their_function_and_go_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        let (database, _) = Database::open(&path, &path.with_extension("key")).unwrap();
        for name in ["a", "b"] {
            let versions = [version_record(10), version_record(9)];
            let written = versions.iter();
            database.put(&record(name), written, vec![]).await.unwrap();
        }
        database.delete(&record("a").name).await.unwrap();
        put(&database, &record("a")).await;
        drop(database);
        let (_database, stored) = Database::open(&path, &path.with_extension("key")).unwrap();
        assert_eq!(stored[0].versions, []);
        assert_eq!(stored[1].versions, [version_record(9), version_record(10)]);
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
            Database::open(&path, &path.with_extension("key")),
            Err(RegistryError::TooNew {
                found: 99,
                known,
                ..
            }) if known < 99
        ));
    }

    #[test]
    fn a_file_that_is_no_database_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        std::fs::write(&path, [0x55; 4096]).unwrap();
        let error = Database::open(&path, &path.with_extension("key"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("registry.db"), "{error}");
    }

    #[tokio::test]
    async fn variables_are_nowhere_in_the_file_and_open_with_their_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("registry.db"), dir.path().join("key"));
        let (database, _) = Database::open(&path, &key).unwrap();
        let mut secret = record("f");
        let variables = BTreeMap::from([("NAME_OF_IT".into(), "hunter2".into())]);
        secret.config.environment = Environment(variables);
        let mut version = version_record(1);
        version.config = secret.config.clone();
        let versions = std::iter::once(&version);
        database.put(&secret, versions, vec![]).await.unwrap();
        drop(database);
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("hunter2") && !text.contains("NAME_OF_IT"));
        }
        let (database, stored) = Database::open(&path, &key).unwrap();
        assert_eq!(stored[0].record, secret);
        assert_eq!(stored[0].versions, [version]);
        drop(database);
        std::fs::remove_file(&key).unwrap();
        let missing = Database::open(&path, &key).unwrap_err();
        assert!(matches!(missing, RegistryError::Key(KeyError::Missing(_))));
        assert!(!key.exists(), "a new key would open nothing");
        drop(Database::open(&dir.path().join("other.db"), &key).unwrap());
        let wrong = Database::open(&path, &key).unwrap_err();
        assert!(matches!(wrong, RegistryError::Sealed { name, .. } if name == "f"));
    }
}
