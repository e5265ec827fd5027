//! The registry's file: SQLite in WAL mode. A write is on disk when its call returns.
//!
//! One thread owns the connection; callers await its replies. A record is stored as one JSON document
//! beside the columns of its key: only [`FunctionRecord`] knows the document's fields, not SQL.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, params};
use tokio::sync::{mpsc, oneshot};

use super::damage::{Damage, stand_in, stand_in_version, without_environment};
use super::documents::{from_document, to_document, without_secrets};
use super::encryption::{Cipher, KeyError, NotDecrypted};
use super::mark::{Continuity, Mark, MarkFile};
use super::migrations::{Schema, migrate, schema};
use crate::data_dir::RESERVE;
use crate::function::{FunctionName, FunctionRecord, LayerRecord, VersionRecord};
use crate::locks::lock;
use crate::sqlite::{BUSY, make_durable};

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
    /// The mark beside the file can't be read.
    #[error("registry's mark {}: {source}", path.display())]
    Mark {
        /// The mark's file.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
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
    /// The file is empty, but there are packages of functions beside it.
    #[error(
        "registry {} is empty, but {} has {packages} packages: the registry was lost, or restored \
         without its -wal file. Restore the data directory from a backup. To begin without its \
         functions, move {} away",
        path.display(), folder.display(), folder.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// The packages' folder.
        folder: PathBuf,
        /// The number of files in it.
        packages: usize,
    },
    /// The file is not the one that the data directory belongs to, or an older copy.
    #[error(
        "registry {} is not the one that the data directory was used with last: {why}. Restore it \
         with its -wal file, or the whole data directory from a backup. To go on with this one, \
         remove {}: files of functions that it does not have are then moved to lost+found",
        path.display(), mark.display()
    )]
    NotTheLast {
        /// The file.
        path: PathBuf,
        /// The mark's file.
        mark: PathBuf,
        /// The difference.
        why: String,
    },
    /// A record can't be changed, because it can't be read.
    #[error(
        "the record of {name} in the registry is damaged ({why}): restore a backup, or delete the \
         function and create it again"
    )]
    Damaged {
        /// The function or layer.
        name: String,
        /// The reason.
        why: String,
    },
    /// The registry's thread has ended.
    #[error("the registry's thread has ended")]
    Closed,
}

impl RegistryError {
    /// Whether the disk is full.
    fn is_full(&self) -> bool {
        let Self::Sqlite { source, .. } = self else {
            return false;
        };
        source.sqlite_error_code() == Some(ErrorCode::DiskFull)
    }

    /// The text for clients, who need not know the host's paths.
    pub(crate) fn for_clients(&self) -> String {
        match self {
            Self::Sqlite { source, .. } => format!("The change could not be stored: {source}"),
            other => other.to_string(),
        }
    }
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

type Job = Box<dyn FnOnce(&mut Connection, &mut MarkFile) + Send>;

/// Sends work to the thread that owns the connection.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    jobs: mpsc::UnboundedSender<Job>,
    path: PathBuf,
    cipher: Cipher,
    continuity: Continuity,
    damage: Arc<Mutex<Damage>>,
}

impl Database {
    /// Opens the file, creating or migrating it if needed, and returns it with all records. `key` is the
    /// file of the encryption key; it is made if the registry has no encrypted values yet. Refuses a file
    /// that lacks functions whose packages are there, and then changes nothing.
    pub(crate) fn open(path: &Path, key: &Path) -> Result<(Self, Contents), RegistryError> {
        let sqlite = |source| RegistryError::Sqlite {
            path: path.into(),
            source,
        };
        let mut connection = Connection::open(path).map_err(sqlite)?;
        make_durable(&connection).map_err(sqlite)?;
        let mut mark = MarkFile::beside(path);
        let schema = schema(&connection, path)?;
        let last = mark.read().map_err(|source| RegistryError::Mark {
            path: mark.path().into(),
            source,
        })?;
        refuse_lost(schema, path, last.as_ref(), mark.path())?;
        let cipher = Cipher::open(key, !schema.is_encrypted())?;
        migrate(&mut connection, path, &cipher)?;
        let now = Mark::of(&connection).map_err(sqlite)?;
        let continuity = continuity(&now, last.as_ref(), path, mark.path())?;
        mark.write(&now);
        let (contents, damage) = read_all(&connection, path, &cipher)?;
        let (jobs, mut inbox) = mpsc::unbounded_channel::<Job>();
        std::thread::Builder::new()
            .name("registry".into())
            .spawn(move || {
                while let Some(job) = inbox.blocking_recv() {
                    job(&mut connection, &mut mark);
                }
            })
            .map_err(|_| RegistryError::Closed)?;
        Ok((
            Self {
                jobs,
                path: path.into(),
                cipher,
                continuity,
                damage: Arc::new(Mutex::new(damage)),
            },
            contents,
        ))
    }

    /// Whether this registry is the one that the data directory's files belong to.
    pub(crate) fn continuity(&self) -> Continuity {
        self.continuity
    }

    /// Whether the thread that owns the connection runs.
    pub(crate) fn is_alive(&self) -> bool {
        !self.jobs.is_closed()
    }

    /// Whether some record could not be read, so that its files are not known.
    pub(crate) fn is_damaged(&self) -> bool {
        lock(&self.damage).any()
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
        lock(&self.damage).check_function(&name)?;
        let document = to_document(&self.cipher, &name, record)?;
        let versions = versions
            .map(|version| Ok((version.number, to_document(&self.cipher, &name, version)?)))
            .collect::<Result<Vec<_>, RegistryError>>()?;
        self.execute(move |change| {
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
            Ok(())
        })
        .await
    }

    /// Writes a new or changed layer.
    pub(crate) async fn put_layer(&self, layer: &LayerRecord) -> Result<(), RegistryError> {
        let name = layer.name.to_string();
        lock(&self.damage).check_layer(&name)?;
        let document = to_document(&self.cipher, &name, layer)?;
        self.execute(move |change| {
            change
                .execute(
                    "INSERT INTO layers (name, document) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET document = excluded.document",
                    params![name, document],
                )
                .map(drop)
        })
        .await
    }

    /// Removes a function with its versions. On a full disk it uses the reserve.
    pub(crate) async fn delete(&self, name: &FunctionName) -> Result<(), RegistryError> {
        let (name, deleted) = (name.to_string(), name.as_str());
        let delete = move |change: &Transaction<'_>| {
            change.execute("DELETE FROM functions WHERE name = ?1", params![name])?;
            change
                .execute("DELETE FROM versions WHERE function = ?1", params![name])
                .map(drop)
        };
        match self.execute(delete.clone()).await {
            Err(error) if error.is_full() && self.release_reserve() => {
                self.execute(delete).await?;
            }
            other => other?,
        }
        lock(&self.damage).forget(deleted);
        Ok(())
    }

    /// Whether there was a reserve.
    fn release_reserve(&self) -> bool {
        std::fs::remove_file(self.path.with_file_name(RESERVE)).is_ok()
    }

    /// Does `work` in one transaction, and counts it as a change.
    async fn execute(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), RegistryError> {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |connection, mark| {
            let changed = change(connection, work);
            if let Ok(now) = &changed {
                mark.write(now);
            }
            // The caller may have been dropped.
            let _ = done.send(changed.map(drop));
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

/// Refuses an empty file beside packages, and one without an identity beside a mark.
fn refuse_lost(
    schema: Schema,
    path: &Path,
    last: Option<&Mark>,
    mark: &Path,
) -> Result<(), RegistryError> {
    let folder = path.with_file_name("packages");
    let packages = std::fs::read_dir(&folder).map_or(0, Iterator::count);
    if schema.is_new() && packages > 0 {
        return Err(RegistryError::Lost {
            path: path.into(),
            folder,
            packages,
        });
    }
    if last.is_some_and(|last| last.changes > 0) && !schema.has_identity() {
        return Err(RegistryError::NotTheLast {
            path: path.into(),
            mark: mark.into(),
            why: "it is empty or of an earlier version".into(),
        });
    }
    Ok(())
}

fn continuity(
    now: &Mark,
    last: Option<&Mark>,
    path: &Path,
    mark: &Path,
) -> Result<Continuity, RegistryError> {
    let why = match last {
        None => return Ok(Continuity::Unproven),
        // An empty registry that was thrown away before it had a function.
        Some(last) if last.id != now.id && last.changes == 0 => return Ok(Continuity::Unproven),
        Some(last) if last.id != now.id => "it is another registry".into(),
        Some(last) if last.changes > now.changes => {
            format!("it lacks the last {} changes", last.changes - now.changes)
        }
        Some(_) => return Ok(Continuity::Proven),
    };
    Err(RegistryError::NotTheLast {
        path: path.into(),
        mark: mark.into(),
        why,
    })
}

/// Does `work` in one transaction and returns the new mark.
fn change(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<Mark> {
    let change = connection.transaction()?;
    work(&change)?;
    change.execute("UPDATE identity SET changes = changes + 1", [])?;
    let mark = Mark::of(&change)?;
    change.commit()?;
    Ok(mark)
}

/// What is damaged in a registry's file, for `hearth doctor`: a text for each record, and those of SQLite's
/// own check. Changes nothing; a controller may use the file meanwhile. A file that does not exist has no
/// damage.
pub fn find_damage(path: &Path, key: &Path) -> Result<Vec<String>, RegistryError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let sqlite = |source| RegistryError::Sqlite {
        path: path.into(),
        source,
    };
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sqlite)?;
    connection.busy_timeout(BUSY).map_err(sqlite)?;
    let mut found = Vec::new();
    connection
        .pragma_query(None, "quick_check", |row| {
            let text: String = row.get(0)?;
            found.extend((text != "ok").then_some(text));
            Ok(())
        })
        .map_err(sqlite)?;
    if schema(&connection, path)?.has_identity() {
        let cipher = Cipher::open(key, false)?;
        found.extend(read_all(&connection, path, &cipher)?.1.into_texts());
    }
    Ok(found)
}

/// A row: the name in its key, the number of a version, and its document. A damaged row may have bytes that
/// are no text.
type Row = (String, u32, String);

fn rows(connection: &Connection, query: &str) -> rusqlite::Result<Vec<Row>> {
    let text = |row: &rusqlite::Row<'_>, at: usize| -> rusqlite::Result<String> {
        let bytes = row.get_ref(at)?.as_bytes().unwrap_or_default();
        Ok(String::from_utf8_lossy(bytes).into_owned())
    };
    let mut select = connection.prepare(query)?;
    let rows = select.query_map([], |row| {
        Ok((text(row, 0)?, row.get(1).unwrap_or(0), text(row, 2)?))
    })?;
    rows.collect()
}

/// Reads all records. Those that can't be read have stand-ins and are part of the damage.
fn read_all(
    connection: &Connection,
    path: &Path,
    cipher: &Cipher,
) -> Result<(Contents, Damage), RegistryError> {
    let rows = |query: &str| {
        rows(connection, query).map_err(|source| RegistryError::Sqlite {
            path: path.into(),
            source,
        })
    };
    let mut damage = Damage::default();
    let functions = rows("SELECT name, 0, document FROM functions ORDER BY name")?;
    let mut functions = read_functions(cipher, functions, &mut damage)?;
    for (name, number, document) in
        rows("SELECT function, number, document FROM versions ORDER BY function, number")?
    {
        let at = functions.binary_search_by(|known| known.record.name.as_str().cmp(&name));
        // A function and its versions are written and removed in one transaction, so a version without
        // its function was not written by us: skip it.
        let Ok(at) = at else { continue };
        let version = match from_document(cipher, &name, &document) {
            Ok(version) => version,
            Err(error) => {
                let why = error.to_string();
                damage.version(&name, number, &why);
                stand_in_version(&functions[at].record, number, &why)
            }
        };
        functions[at].versions.push(version);
    }
    let mut layers = Vec::new();
    for (name, _, document) in rows("SELECT name, 0, document FROM layers")? {
        match from_document(cipher, &name, &document) {
            Ok(layer) => layers.push(layer),
            Err(error) => damage.layer(&name, &error.to_string()),
        }
    }
    Ok((Contents { functions, layers }, damage))
}

fn read_functions(
    cipher: &Cipher,
    rows: Vec<Row>,
    damage: &mut Damage,
) -> Result<Vec<Stored>, RegistryError> {
    let mut functions = Vec::new();
    let mut not_decrypted = None;
    let mut decrypted = false;
    for (name, _, document) in rows {
        let read = from_document::<FunctionRecord>(cipher, &name, &document);
        let record = match read {
            Ok(record) if record.name.as_str() == name => {
                decrypted = true;
                record
            }
            other => {
                let why = match &other {
                    Ok(record) => format!("it is the record of {}", record.name),
                    Err(error) => error.to_string(),
                };
                let Ok(valid) = FunctionName::parse(&name) else {
                    damage.function(&name, why);
                    continue;
                };
                damage.function(&name, why.clone());
                let lacks_only_secrets = matches!(other, Err(RegistryError::NotDecrypted { .. }));
                if let Err(error @ RegistryError::NotDecrypted { .. }) = other {
                    not_decrypted.get_or_insert(error);
                }
                match without_secrets(&name, &document).filter(|_| lacks_only_secrets) {
                    Some(record) => without_environment(record, &why),
                    None => stand_in(valid, &why),
                }
            }
        };
        functions.push(Stored {
            record,
            versions: Vec::new(),
        });
    }
    // Every record has an encrypted value. If none can be decrypted, the key is the wrong one.
    match not_decrypted {
        Some(error) if !decrypted => Err(error),
        _ => Ok(functions),
    }
}

#[cfg(test)]
#[path = "database_tests.rs"]
pub(crate) mod tests;
