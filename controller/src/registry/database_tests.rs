//! Tests of the registry's file: records survive, and environment variables are encrypted.

use std::collections::BTreeMap;

use super::*;
use crate::function::{Code, Environment, FunctionConfig, LayerName, Runtime, State, Status};

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
            environment: Some(Environment(BTreeMap::from([("K".into(), "V".into())]))),
            tracing_mode: "PassThrough".into(),
            snap_start: "None".into(),
            layers: Vec::new(),
            logging: crate::function::Logging::default(),
            tenant_isolation: false,
        },
        code: Code {
            sha256: "0".repeat(64),
            size: 1,
            unpacked: 1,
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
        provisioned: BTreeMap::new(),
        urls: BTreeMap::new(),
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
async fn records_survive_reopening_and_deleted_ones_stay_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    let (database, none) = Database::open(&path, &path.with_extension("key")).unwrap();
    assert!(none.functions.is_empty() && none.layers.is_empty());
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
    assert_eq!(stored.functions, [expected]);
}

#[tokio::test]
async fn versions_are_read_and_deleted_with_their_function() {
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
    assert_eq!(stored.functions[0].versions, []);
    assert_eq!(
        stored.functions[1].versions,
        [version_record(9), version_record(10)]
    );
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
async fn variables_are_nowhere_in_the_file_and_only_their_key_decrypts_them() {
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = (dir.path().join("registry.db"), dir.path().join("key"));
    let (database, _) = Database::open(&path, &key).unwrap();
    let mut secret = record("f");
    let variables = BTreeMap::from([("NAME_OF_IT".into(), "hunter2".into())]);
    secret.config.environment = Some(Environment(variables));
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
    assert_eq!(stored.functions[0].record, secret);
    assert_eq!(stored.functions[0].versions, [version]);
    drop(database);
    std::fs::remove_file(&key).unwrap();
    let missing = Database::open(&path, &key).unwrap_err();
    assert!(matches!(missing, RegistryError::Key(KeyError::Missing(_))));
    assert!(!key.exists(), "a new key would open nothing");
    drop(Database::open(&dir.path().join("other.db"), &key).unwrap());
    let wrong = Database::open(&path, &key).unwrap_err();
    assert!(matches!(wrong, RegistryError::NotDecrypted { name, .. } if name == "f"));
}

#[tokio::test]
async fn a_layer_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = (dir.path().join("registry.db"), dir.path().join("key"));
    let (database, _) = Database::open(&path, &key).unwrap();
    let layer = LayerRecord {
        name: LayerName::parse("l").unwrap(),
        last_version: 2,
        versions: BTreeMap::new(),
    };
    database.put_layer(&layer).await.unwrap();
    drop(database);
    let (_database, stored) = Database::open(&path, &key).unwrap();
    assert_eq!(stored.layers, [layer]);
}

/// Waits until the thread has closed the file. Then the file alone is the whole registry.
fn complete(path: &Path) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while path.with_extension("db-wal").exists() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// A start with an empty registry deleted every package, image, snapshot and log.
#[tokio::test]
async fn a_registry_that_lacks_what_the_data_directory_has_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = (dir.path().join("registry.db"), dir.path().join("key"));
    let (database, _) = Database::open(&path, &key).unwrap();
    assert_eq!(database.continuity(), Continuity::Unproven);
    put(&database, &record("a")).await;
    drop(database);
    complete(&path);
    let older = std::fs::read(&path).unwrap();
    let (database, _) = Database::open(&path, &key).unwrap();
    assert_eq!(database.continuity(), Continuity::Proven);
    put(&database, &record("b")).await;
    drop(database);
    complete(&path);
    let newest = std::fs::read(&path).unwrap();
    let wal = path.with_extension("db-wal");

    std::fs::write(&path, &older).unwrap();
    let error = Database::open(&path, &key).unwrap_err().to_string();
    assert!(error.contains("lacks the last 1 changes"), "{error}");
    std::fs::write(&path, []).unwrap();
    let error = Database::open(&path, &key).unwrap_err().to_string();
    assert!(error.contains("registry.mark"), "{error}");
    std::fs::create_dir(dir.path().join("packages")).unwrap();
    std::fs::write(dir.path().join("packages/p"), "zip").unwrap();
    let error = Database::open(&path, &key).unwrap_err().to_string();
    assert!(error.contains("1 packages"), "{error}");
    std::fs::remove_file(&path).unwrap();
    Database::open(&path, &key).unwrap_err();
    drop(std::fs::remove_file(path.with_extension("db-shm")));
    drop(std::fs::remove_file(&wal));

    std::fs::write(&path, &newest).unwrap();
    let (database, stored) = Database::open(&path, &key).unwrap();
    assert_eq!(database.continuity(), Continuity::Proven);
    assert_eq!(stored.functions.len(), 2);
    drop(database);
    complete(&path);
    std::fs::write(&path, &older).unwrap();
    std::fs::remove_file(path.with_extension("mark")).unwrap();
    let (database, stored) = Database::open(&path, &key).unwrap();
    assert_eq!(database.continuity(), Continuity::Unproven);
    assert_eq!(stored.functions.len(), 1);
}

/// One damaged row stopped the whole controller.
#[tokio::test]
async fn a_damaged_record_takes_down_its_own_function_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = (dir.path().join("registry.db"), dir.path().join("key"));
    let (database, _) = Database::open(&path, &key).unwrap();
    for name in ["cut", "fine", "other", "sealed", "version"] {
        let versions = [version_record(1), version_record(2)];
        let written = versions.iter();
        database.put(&record(name), written, vec![]).await.unwrap();
    }
    drop(database);
    let file = Connection::open(&path).unwrap();
    file.execute_batch(
        "UPDATE functions SET document = '{' WHERE name = 'cut';
         UPDATE functions SET document = (SELECT document FROM functions WHERE name = 'fine')
             WHERE name = 'other';
         UPDATE functions SET document = json_set(document, '$.config.environment', 'x')
             WHERE name = 'sealed';
         UPDATE versions SET document = '{' WHERE function = 'version' AND number = 1;
         INSERT INTO layers VALUES ('l', '{')",
    )
    .unwrap();
    drop(file);
    assert_eq!(find_damage(&path, &key).unwrap().len(), 5);
    let (database, stored) = Database::open(&path, &key).unwrap();
    assert!(database.is_damaged());
    assert!(stored.layers.is_empty());
    let by_name = |name: &str| {
        let found = stored
            .functions
            .iter()
            .find(|f| f.record.name.as_str() == name);
        found.unwrap().clone()
    };
    for name in ["cut", "other", "sealed"] {
        let Stored { record, .. } = by_name(name);
        assert_eq!(record.state.is, State::Failed, "{name}");
        assert!(record.state.reason.as_ref().unwrap().contains("damaged"));
        let refused = database.put(&record, std::iter::empty(), vec![]).await;
        assert!(matches!(refused, Err(RegistryError::Damaged { .. })));
    }
    assert_eq!(by_name("sealed").record.config.handler, "bootstrap");
    assert_eq!(by_name("fine").record, record("fine"));
    let Stored {
        record: whole,
        versions,
    } = by_name("version");
    assert_eq!(whole.state.is, State::Active);
    assert_eq!(versions[0].state.is, State::Failed);
    assert_eq!((versions[0].number, &versions[1]), (1, &version_record(2)));
    put(&database, &record("fine")).await;
    database.delete(&record("cut").name).await.unwrap();
    put(&database, &record("cut")).await;
    drop(database);
    let (_database, stored) = Database::open(&path, &key).unwrap();
    assert_eq!(stored.functions[0].record, record("cut"));
    assert_eq!(find_damage(&path, &key).unwrap().len(), 4);
}
