//! The schema of the registry's file, as the changes that led to it.

use std::path::Path;

use rusqlite::{Connection, Transaction, params};

use super::database::RegistryError;
use super::documents::seal;
use super::sealing::Sealer;

/// A change of the schema, or of what is stored.
enum Step {
    Sql(&'static str),
    /// Environment variables are encrypted from here on.
    Seal,
}

/// Schema changes in order. A file's `user_version` is how many of them it has.
const MIGRATIONS: [Step; 5] = [
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
    // Tags belong to a function, not to what it is deployed from.
    Step::Sql(
        "UPDATE functions SET document = json_remove(
        json_set(document, '$.tags', coalesce(json_extract(document, '$.config.tags'), json('{}'))),
        '$.config.tags', '$.deployed.config.tags');
    UPDATE versions SET document = json_remove(document, '$.config.tags')",
    ),
    Step::Seal,
    Step::Sql(
        "CREATE TABLE layers (
        name TEXT PRIMARY KEY NOT NULL,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID",
    ),
];

/// How many of the changes a file has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schema(usize);

impl Schema {
    /// Whether environment variables in it are encrypted.
    pub(super) fn is_sealed(self) -> bool {
        MIGRATIONS[..self.0]
            .iter()
            .any(|step| matches!(step, Step::Seal))
    }
}

/// Reads a file's schema; one that this program does not know is refused.
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

/// Brings a file to the newest schema, one step after another, each whole or not at all.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    sealer: &Sealer,
) -> Result<(), RegistryError> {
    let Schema(done) = schema(connection, path)?;
    let sqlite = |source| RegistryError::Sqlite {
        path: path.into(),
        source,
    };
    let mut sealed = false;
    for (version, step) in (1i64..).zip(&MIGRATIONS).skip(done) {
        let change = connection.transaction().map_err(sqlite)?;
        match step {
            Step::Sql(statements) => change.execute_batch(statements).map_err(sqlite)?,
            Step::Seal => {
                seal_all(&change, sealer).map_err(sqlite)?;
                sealed = done > 0;
            }
        }
        change
            .pragma_update(None, "user_version", version)
            .map_err(sqlite)?;
        change.commit().map_err(sqlite)?;
    }
    if sealed {
        // What was there in the clear is in free pages still, and in the log.
        connection
            .execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
            .map_err(sqlite)?;
    }
    Ok(())
}

/// Encrypts what is stored in the clear.
fn seal_all(change: &Transaction<'_>, sealer: &Sealer) -> rusqlite::Result<()> {
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
            // What is no JSON is told of when it is read; nothing of it is a secret of ours.
            let Ok(mut document) = serde_json::from_str(&document) else {
                continue;
            };
            seal(sealer, &name, &mut document);
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
            },
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
