//! Tests of backups.

use super::*;
use crate::registry::{Database, test_record};

fn data_directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    drop(DataDir::open(&data).unwrap());
    fs::create_dir(data.join("logs/f")).unwrap();
    fs::write(data.join("logs/f/00000000000000000001.jsonl"), "{}\n").unwrap();
    fs::write(data.join("access-keys.json"), "{}").unwrap();
    (dir, data)
}

fn open(data: &Path) -> (Database, Vec<String>) {
    let (database, stored) =
        Database::open(&data.join("registry.db"), &data.join("secrets.key")).unwrap();
    let names = stored.functions.iter().map(|f| f.record.name.to_string());
    (database, names.collect())
}

#[tokio::test]
async fn a_restored_backup_has_everything_that_can_not_be_made_again() {
    let (dir, data) = data_directory();
    let (database, _) = open(&data);
    let mut record = test_record("f");
    record.code.sha256 = "a".repeat(64);
    database
        .put(&record, std::iter::empty(), vec![])
        .await
        .unwrap();
    fs::write(data.join("packages").join(&record.code.sha256), "zip").unwrap();
    fs::write(data.join("packages/unused"), "zip").unwrap();
    // While the database is open: its last change is only in the write-ahead log.
    let to = dir.path().join("backup");
    let made = backup(&data, &to).unwrap();
    assert_eq!((made.functions, made.packages), (1, 1));
    assert!(made.has_key && made.missing_packages.is_empty());
    assert!(!to.join("packages/unused").exists());
    assert!(matches!(backup(&data, &to), Err(BackupError::NotEmpty(_))));
    assert!(matches!(restore(&to, &data), Err(BackupError::InUse(_))));

    let other = dir.path().join("other");
    assert_eq!(restore(&to, &other).unwrap(), made);
    let (_database, names) = open(&other);
    assert_eq!(names, ["f"]);
    for file in [
        "packages/".to_owned() + &record.code.sha256,
        "logs/f/00000000000000000001.jsonl".into(),
        "access-keys.json".into(),
    ] {
        assert_eq!(
            fs::read(other.join(&file)).unwrap(),
            fs::read(data.join(&file)).unwrap(),
            "{file}"
        );
    }
    let key = fs::metadata(other.join("secrets.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_package_that_is_lost_is_named_and_does_not_stop_the_backup() {
    let (dir, data) = data_directory();
    let (database, _) = open(&data);
    let record = test_record("f");
    let none = std::iter::empty();
    database.put(&record, none, vec![]).await.unwrap();
    let made = backup(&data, &dir.path().join("backup")).unwrap();
    assert_eq!(made.missing_packages, [record.code.sha256]);
    assert_eq!(made.packages, 0);
}

#[test]
fn a_folder_that_is_no_complete_backup_is_refused() {
    let (dir, data) = data_directory();
    assert!(matches!(
        backup(&data, &dir.path().join("b")),
        Err(BackupError::NoRegistry(_))
    ));
    let other = dir.path().join("other");
    let refused = restore(dir.path(), &other).unwrap_err();
    assert!(matches!(refused, BackupError::NoBackup(_)));
    assert!(!other.exists());
}
