//! Backups of a data directory, made while its controller runs, and their restoration.
//!
//! A backup holds what can't be made again: the registry, the event queue, the packages, the keys and the
//! logs. Images and snapshots are made again from the packages. SQLite copies its files as they are at one
//! moment. The packages are copied after the registry, so a package may have been deleted meanwhile: then
//! the registry is copied once more.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use crate::data_dir::{DataDir, DataDirError};
use crate::sqlite::BUSY;

/// The file that a backup has when it is complete.
const MANIFEST: &str = "backup.json";
const REGISTRY: &str = "registry.db";
const EVENTS: &str = "events.db";
const PACKAGES: &str = "packages";
const LOGS: &str = "logs";
/// Files with secrets.
const KEYS: [&str; 2] = ["secrets.key", "access-keys.json"];
/// Number of copies of the registry before a package that is missing counts as lost.
const TRIES: u32 = 5;

/// What a backup holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The version of the program that has made it.
    pub version: String,
    /// Number of functions.
    pub functions: u64,
    /// Number of accepted events that were not over.
    pub events: u64,
    /// Number of packages.
    pub packages: u64,
    /// Packages that the registry refers to, but that the data directory does not have.
    pub missing_packages: Vec<String>,
    /// Whether it has the key of the environment variables. Another key file must be kept beside it.
    pub has_key: bool,
}

/// Why a backup could not be made or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// An operation on a file or folder has failed.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// SQLite can't copy or read a file.
    #[error("can't copy {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// There is no registry in the data directory.
    #[error("{} is no data directory of a controller: it has no registry.db", .0.display())]
    NoRegistry(PathBuf),
    /// The folder for the backup has files already.
    #[error("{} is not empty: name a new folder for the backup", .0.display())]
    NotEmpty(PathBuf),
    /// A folder is not a complete backup.
    #[error("{} is no complete backup: it has no {MANIFEST}", .0.display())]
    NoBackup(PathBuf),
    /// The data directory has functions already.
    #[error("{} is in use: move it away, and restore into an empty data directory", .0.display())]
    InUse(PathBuf),
    /// The data directory can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::Io {
        action,
        path: path.into(),
        source,
    }
}

/// Makes a backup of the data directory `data` in the new folder `to`. A controller may use `data`
/// meanwhile.
pub fn backup(data: &Path, to: &Path) -> Result<Backup, BackupError> {
    let registry = data.join(REGISTRY);
    if fs::metadata(&registry).map_or(0, |file| file.len()) == 0 {
        return Err(BackupError::NoRegistry(data.into()));
    }
    private(to)?;
    if !is_empty(to) {
        return Err(BackupError::NotEmpty(to.into()));
    }
    let packages = to.join(PACKAGES);
    private(&packages)?;
    // Events first: the function of each event is then in the registry, unless it was deleted meanwhile.
    let events = data.join(EVENTS);
    let events = match events.exists() {
        true => count(&copy_database(&events, &to.join(EVENTS))?, "events", to)?,
        false => 0,
    };
    let mut made = Backup {
        version: crate::VERSION.into(),
        events,
        ..Backup::default()
    };
    for _ in 0..TRIES {
        let copy = copy_database(&registry, &to.join(REGISTRY))?;
        made.functions = count(&copy, "functions", to)?;
        let wanted = packages_in(&copy).map_err(|source| BackupError::Sqlite {
            path: registry.clone(),
            source,
        })?;
        made.packages = wanted.len() as u64;
        made.missing_packages.clear();
        for package in wanted {
            if !copy_package(
                &data.join(PACKAGES).join(&package),
                &packages.join(&package),
            )? {
                made.missing_packages.push(package);
            }
        }
        if made.missing_packages.is_empty() {
            break;
        }
    }
    made.packages -= made.missing_packages.len() as u64;
    for key in KEYS {
        copy_file(&data.join(key), &to.join(key))?;
    }
    made.has_key = to.join(KEYS[0]).exists();
    copy_logs(&data.join(LOGS), &to.join(LOGS))?;
    let manifest = serde_json::to_vec_pretty(&made).expect("a manifest is plain JSON");
    sync_tree(to)?;
    let path = to.join(MANIFEST);
    fs::write(&path, manifest).map_err(failed("write", &path))?;
    sync_tree(to)?;
    Ok(made)
}

/// Restores the backup `from` into the data directory `data`, which has no functions yet and which no
/// controller uses. The files get the owner of `data`.
pub fn restore(from: &Path, data: &Path) -> Result<Backup, BackupError> {
    let manifest = fs::read(from.join(MANIFEST)).ok();
    let made = manifest.and_then(|text| serde_json::from_slice::<Backup>(&text).ok());
    let made = made.ok_or_else(|| BackupError::NoBackup(from.into()))?;
    let used = |name: &str| fs::metadata(data.join(name)).is_ok_and(|file| file.len() > 0);
    let logs = ["registry.db-wal", "events.db-wal"];
    if used(REGISTRY)
        || used(EVENTS)
        || logs.into_iter().any(used)
        || !is_empty(&data.join(PACKAGES))
    {
        return Err(BackupError::InUse(data.into()));
    }
    let locked = DataDir::open(data)?;
    for name in KEYS.iter().chain([&EVENTS]) {
        copy_file(&from.join(name), &data.join(name))?;
    }
    for entry in entries(&from.join(PACKAGES))? {
        let to = locked.packages().join(entry.file_name());
        copy_file(&entry.path(), &to)?;
    }
    copy_logs(&from.join(LOGS), &locked.logs())?;
    // Last, and by its name only when it is whole: with it the data directory is in use.
    let half = locked.tmp().join(REGISTRY);
    copy_file(&from.join(REGISTRY), &half)?;
    sync_tree(locked.root())?;
    let registry = locked.registry();
    // A mark of an earlier registry would refuse this one.
    remove(&registry.with_extension("mark"))?;
    fs::rename(&half, &registry).map_err(failed("rename", &half))?;
    sync_tree(locked.root())?;
    give_to_owner(locked.root())?;
    Ok(made)
}

/// Copies a SQLite file as it is at one moment, and opens the copy.
fn copy_database(from: &Path, to: &Path) -> Result<Connection, BackupError> {
    let sqlite = |source| BackupError::Sqlite {
        path: from.into(),
        source,
    };
    remove(to)?;
    // Not read-only: only a writer removes the files beside it at its end.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(sqlite)?;
    source.busy_timeout(BUSY).map_err(sqlite)?;
    let target = to.to_string_lossy().into_owned();
    source.execute("VACUUM INTO ?1", [target]).map_err(sqlite)?;
    fs::set_permissions(to, Permissions::from_mode(0o600)).map_err(failed("close", to))?;
    Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sqlite)
}

fn count(copy: &Connection, table: &str, path: &Path) -> Result<u64, BackupError> {
    let query = format!("SELECT count(*) FROM {table}");
    let rows: i64 = copy
        .query_row(&query, [], |row| row.get(0))
        .map_err(|source| BackupError::Sqlite {
            path: path.into(),
            source,
        })?;
    Ok(rows.unsigned_abs())
}

/// The packages that the documents of a registry refer to. Reads no record as a whole, so that a damaged
/// one does not matter.
fn packages_in(registry: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    const FIELD: &str = "\"sha256\":\"";
    let mut select = registry.prepare(
        "SELECT document FROM functions UNION ALL SELECT document FROM versions
         UNION ALL SELECT document FROM layers",
    )?;
    let mut rows = select.query([])?;
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(0)?.as_bytes().unwrap_or_default();
        let text = String::from_utf8_lossy(bytes);
        let hashes = text.split(FIELD).skip(1).filter_map(|rest| rest.get(..64));
        let hashes = hashes.filter(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
        found.extend(hashes.map(str::to_owned));
    }
    Ok(found)
}

/// Links or copies a package. Packages never change. Returns whether there is one.
fn copy_package(from: &Path, to: &Path) -> Result<bool, BackupError> {
    if to.exists() || fs::hard_link(from, to).is_ok() {
        return Ok(true);
    }
    copy_file(from, to)
}

/// Copies a file with its permissions. Returns whether there is one.
fn copy_file(from: &Path, to: &Path) -> Result<bool, BackupError> {
    match fs::copy(from, to) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => Ok(false),
        Err(source) => Err(failed("copy", from)(source)),
    }
}

/// Copies each function's folder of log segments. Segments may be removed meanwhile.
fn copy_logs(from: &Path, to: &Path) -> Result<(), BackupError> {
    private(to)?;
    for function in entries(from)? {
        let folder = to.join(function.file_name());
        private(&folder)?;
        for segment in entries(&function.path())? {
            copy_file(&segment.path(), &folder.join(segment.file_name()))?;
        }
    }
    Ok(())
}

/// The entries of a folder; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, BackupError> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .collect::<io::Result<_>>()
            .map_err(failed("list", folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("list", folder)(error)),
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

fn private(folder: &Path) -> Result<(), BackupError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed("create", folder))
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Calls `act` for everything in a folder, the folder last.
fn walk(folder: &Path, act: &dyn Fn(&Path) -> Result<(), BackupError>) -> Result<(), BackupError> {
    for entry in entries(folder)? {
        let kind = entry.file_type().map_err(failed("read", folder))?;
        if kind.is_dir() {
            walk(&entry.path(), act)?;
        } else if kind.is_file() {
            act(&entry.path())?;
        }
    }
    act(folder)
}

/// Writes everything in a folder to the disk.
fn sync_tree(folder: &Path) -> Result<(), BackupError> {
    walk(folder, &|path| {
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(failed("sync", path))
    })
}

/// Gives everything in the data directory to its owner: root may have restored it for another user.
fn give_to_owner(data: &Path) -> Result<(), BackupError> {
    let of = fs::metadata(data).map_err(failed("read", data))?;
    if !nix::unistd::geteuid().is_root() || of.uid() == 0 {
        return Ok(());
    }
    walk(data, &|path| {
        lchown(path, Some(of.uid()), Some(of.gid())).map_err(failed("give away", path))
    })
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
