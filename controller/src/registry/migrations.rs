//! The schema of the registry's file, as the changes that led to it.

use std::path::Path;

use rusqlite::Connection;

use super::database::RegistryError;

/// Schema changes in order. A file's `user_version` is how many of them it has.
const MIGRATIONS: [&str; 3] = [
    "CREATE TABLE functions (
        name TEXT PRIMARY KEY NOT NULL,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID",
    "CREATE TABLE versions (
        function TEXT NOT NULL,
        number INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (function, number)
    ) STRICT, WITHOUT ROWID",
    // Tags belong to a function, not to what it is deployed from.
    "UPDATE functions SET document = json_remove(
        json_set(document, '$.tags', coalesce(json_extract(document, '$.config.tags'), json('{}'))),
        '$.config.tags', '$.deployed.config.tags');
    UPDATE versions SET document = json_remove(document, '$.config.tags')",
];

/// Brings a file to the newest schema, one step after another, each whole or not at all.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), RegistryError> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::database::Database;
    use super::super::database::tests::record;
    use super::*;
    use crate::function::Deployed;
    use crate::function::Made;

    #[test]
    fn a_file_of_the_first_version_keeps_its_functions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.db");
        let mut old = record("old");
        old.deployed = Some(Deployed {
            config: old.config.clone(),
            code: old.code.clone(),
            made: Made {
                key: "k".into(),
                fingerprint: "f".into(),
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
        first.execute_batch(MIGRATIONS[0]).unwrap();
        first.pragma_update(None, "user_version", 1).unwrap();
        let insert = "INSERT INTO functions VALUES ('old', ?1)";
        first.execute(insert, [document.to_string()]).unwrap();
        drop(first);
        let (_database, stored) = Database::open(&path).unwrap();
        old.tags.insert("team".into(), "blue".into());
        assert_eq!(stored[0].record, old);
        let text: String = Connection::open(&path)
            .unwrap()
            .query_row("SELECT document FROM functions", [], |row| row.get(0))
            .unwrap();
        assert_eq!(text.matches("tags").count(), 1, "{text}");
    }
}
