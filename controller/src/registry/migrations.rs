//! The schema of the registry's file, as a list of changes.

use std::path::Path;

use rusqlite::{Connection, Transaction, params};

use super::database::RegistryError;
use super::documents::encrypt;
use super::encryption::Cipher;

/// A change of the schema or of the stored documents.
enum Step {
    Sql(&'static str),
    /// Encrypts the environment variables.
    Encrypt,
}

/// Schema changes in order. A file's `user_version` is the number of those that were applied.
const MIGRATIONS: [Step; 6] = [
    Step::Sql(
        "CREATE TABLE functions (
        name TEXT PRIMARY KEY NOT NULL,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID",
    ),
    Step::Sql(
        "CREATE TABLE versions (
        function TEXT NOT NULL,
        number INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (function, number)
    ) STRICT, WITHOUT ROWID",
    ),
    // Tags belong to the function, not to the configuration of a deploy.
    Step::Sql(
        "UPDATE functions SET document = json_remove(
        json_set(document, '$.tags', coalesce(json_extract(document, '$.config.tags'), json('{}'))),
        '$.config.tags', '$.deployed.config.tags');
    UPDATE versions SET document = json_remove(document, '$.config.tags')",
    ),
    Step::Encrypt,
    Step::Sql(
        "CREATE TABLE layers (
        name TEXT PRIMARY KEY NOT NULL,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID",
    ),
    // What the mark beside the file is compared with.
    Step::Sql(
        "CREATE TABLE identity (
        one INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
        id TEXT NOT NULL,
        changes INTEGER NOT NULL
    ) STRICT;
    INSERT INTO identity VALUES (1, lower(hex(randomblob(16))), 0)",
    ),
];

/// The number of steps before the one that makes the table `identity`.
const BEFORE_IDENTITY: usize = 5;

/// The number of changes that were applied to a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schema(usize);

impl Schema {
    /// Whether the environment variables are encrypted.
    pub(super) fn is_encrypted(self) -> bool {
        MIGRATIONS[..self.0]
            .iter()
            .any(|step| matches!(step, Step::Encrypt))
    }

    /// Whether the file is empty: no controller has written it.
    pub(super) fn is_new(self) -> bool {
        self.0 == 0
    }

    /// Whether the file says which registry it is.
    pub(super) fn has_identity(self) -> bool {
        self.0 > BEFORE_IDENTITY
    }
}

/// Reads a file's schema. Fails if a newer program has written the file.
pub(super) fn schema(connection: &Connection, path: &Path) -> Result<Schema, RegistryError> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| RegistryError::Sqlite {
            path: path.into(),
            source,
        })?;
    let known = MIGRATIONS.len();
    match usize::try_from(found) {
        Ok(done) if done <= known => Ok(Schema(done)),
        _ => Err(RegistryError::TooNew {
            path: path.into(),
            found,
            known,
        }),
    }
}

/// Brings a file to the newest schema, with one transaction for each step.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    cipher: &Cipher,
) -> Result<(), RegistryError> {
    let Schema(done) = schema(connection, path)?;
    let sqlite = |source| RegistryError::Sqlite {
        path: path.into(),
        source,
    };
    let mut encrypted = false;
    for (version, step) in (1i64..).zip(&MIGRATIONS).skip(done) {
        let change = connection.transaction().map_err(sqlite)?;
        match step {
            Step::Sql(statements) => change.execute_batch(statements).map_err(sqlite)?,
            Step::Encrypt => {
                encrypt_all(&change, cipher).map_err(sqlite)?;
                encrypted = done > 0;
            }
        }
        change
            .pragma_update(None, "user_version", version)
            .map_err(sqlite)?;
        change.commit().map_err(sqlite)?;
    }
    if encrypted {
        // The unencrypted values are still in free pages and in the write-ahead log.
        connection
            .execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
            .map_err(sqlite)?;
    }
    Ok(())
}

/// Encrypts the environment variables in all documents.
fn encrypt_all(change: &Transaction<'_>, cipher: &Cipher) -> rusqlite::Result<()> {
    let tables = [
        (
            "SELECT name, 0, document FROM functions",
            "UPDATE functions SET document = ?3 WHERE name = ?1 AND ?2 = 0",
        ),
        (
            "SELECT function, number, document FROM versions",
            "UPDATE versions SET document = ?3 WHERE function = ?1 AND number = ?2",
        ),
    ];
    for (read, write) in tables {
        let mut select = change.prepare(read)?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let rows = rows.collect::<rusqlite::Result<Vec<(String, u32, String)>>>()?;
        for (name, number, document) in rows {
            // A document that is not JSON is reported when it is read. The controller has not written it,
            // so there is no secret of ours in it.
            let Ok(mut document) = serde_json::from_str(&document) else {
                continue;
            };
            encrypt(cipher, &name, &mut document);
            change.execute(write, params![name, number, document.to_string()])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::database::Database;
    use super::super::database::tests::record;
    use super::*;
    use crate::function::{Deployed, Environment, Made};

    #[test]
    fn a_file_of_the_first_version_keeps_its_functions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        let mut old = record("old");
        let variables = [("SECRET".into(), "in the clear".into())];
        old.config.environment = Some(Environment(variables.into()));
        old.deployed = Some(Deployed {
            config: old.config.clone(),
            code: old.code.clone(),
            made: Made {
                key: "k".into(),
                fingerprint: "f".into(),
                shared_generators: None,
                failed_init: None,
            },
            snapshot_reused: false,
        });
        let mut document = serde_json::to_value(&old).unwrap();
        for field in [
            "last_version",
            "aliases",
            "reserved_concurrency",
            "policies",
        ] {
            document.as_object_mut().unwrap().remove(field);
        }
        let tags = document.as_object_mut().unwrap().remove("tags");
        assert_eq!(tags, Some(json!({})));
        document["config"]["tags"] = json!({ "team": "blue" });
        document["deployed"]["config"]["tags"] = json!({});
        let first = Connection::open(&path).unwrap();
        let Step::Sql(schema) = MIGRATIONS[0] else {
            panic!("the first step makes a table");
        };
        first.execute_batch(schema).unwrap();
        first.pragma_update(None, "user_version", 1).unwrap();
        let insert = "INSERT INTO functions VALUES ('old', ?1)";
        first.execute(insert, [document.to_string()]).unwrap();
        drop(first);
        let (_database, stored) = Database::open(&path, &dir.path().join("key")).unwrap();
        old.tags.insert("team".into(), "blue".into());
        assert_eq!(stored.functions[0].record, old);
        let text: String = Connection::open(&path)
            .unwrap()
            .query_row("SELECT document FROM functions", [], |row| row.get(0))
            .unwrap();
        assert_eq!(text.matches("tags").count(), 1, "{text}");
        // Nor is what was there in the clear left in the file or its log.
        for name in ["registry.db", "registry.db-wal"] {
            let bytes = std::fs::read(dir.path().join(name)).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&bytes).contains("in the clear"));
        }
    }
}
