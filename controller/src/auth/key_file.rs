//! The access keys: `access-keys.json` in the data directory.
//!
//! Checking a signature needs the secret itself, so the file contains secrets in plain text. File
//! permissions protect them: only the owner may read the directory (0700) and the file (0600), and a
//! file that others may read is refused.
//!
//! The file is always replaced, never changed in place: [`super::key_ring`] notices changes by that.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::key::{AccessKey, KeyError, Permissions, Secret, check_name};
use super::random;

const FILE: &str = "access-keys.json";
const LOCK: &str = "access-keys.lock";
/// The version of the file's format that this program reads and writes.
const FORM: u32 = 1;
/// Every id starts with this, so that a leaked id is recognized as one of Hearth's.
const PREFIX: &str = "HRTH";
const ID_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// No characters with a meaning in shells or URLs.
const SECRET_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Length without the prefix. With it an id is as long as AWS's.
const ID_LENGTH: usize = 16;
/// Of this alphabet: 238 bits.
const SECRET_LENGTH: usize = 40;

/// Why keys can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// An operation on the file or its folder has failed.
    #[error("access keys: can't {action} {}: {source}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The file is not valid.
    #[error("access keys {}: {source}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// A newer version of this program has written the file.
    #[error("access keys {} have form {found}, this version knows {FORM}: use a newer hearth", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its form.
        found: u32,
    },
    /// Other users may read the file.
    #[error("access keys {} can be read or written by others (mode {mode:o}): chmod 600 it, and revoke keys that may have leaked", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The name or the permissions of a new key are not valid.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is a key with this name.
    #[error("there is a key named {0:?} already: revoke it, or use another name")]
    Exists(String),
    /// There is no such key to revoke.
    #[error("there is no key {0:?}: `hearth keys list` shows all keys")]
    NotFound(String),
    /// The kernel gives no random numbers for a secret.
    #[error("the host has no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

impl KeysError {
    pub(super) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// Whether the command's arguments are wrong, rather than the file or the host.
    pub fn is_callers(&self) -> bool {
        matches!(self, Self::Key(_) | Self::Exists(_) | Self::NotFound(_))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    form: u32,
    keys: Vec<AccessKey>,
}

/// A new key, whose secret is shown only now.
#[derive(Debug)]
pub struct NewKey {
    /// The key.
    pub key: AccessKey,
}

impl NewKey {
    /// The secret access key.
    pub fn secret(&self) -> &str {
        self.key.secret.expose()
    }
}

/// The keys of a data directory, to list and change them.
#[derive(Debug, Clone)]
pub struct KeyFile {
    folder: PathBuf,
    path: PathBuf,
}

impl KeyFile {
    /// The keys of this data directory, which need not exist yet.
    pub fn of(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.into(),
            path: data_dir.join(FILE),
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys, the oldest first.
    pub fn list(&self) -> Result<Vec<AccessKey>, KeysError> {
        Ok(self.read()?.map(|(keys, _)| keys).unwrap_or_default())
    }

    /// Makes a key with a new id and secret.
    pub fn create(&self, name: &str, permissions: Permissions) -> Result<NewKey, KeysError> {
        check_name(name)?;
        permissions.check()?;
        let _lock = self.lock()?;
        let mut keys = self.list()?;
        if keys.iter().any(|key| key.name == name) {
            return Err(KeysError::Exists(name.into()));
        }
        let now = OffsetDateTime::now_utc();
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let key = AccessKey {
            id: format!("{PREFIX}{}", random::text(ID_ALPHABET, ID_LENGTH)?),
            name: name.into(),
            created: now.format(&Rfc3339).unwrap_or_default(),
            permissions,
            secret: Secret::new(random::text(SECRET_ALPHABET, SECRET_LENGTH)?),
        };
        keys.push(key.clone());
        self.write(keys)?;
        Ok(NewKey { key })
    }

    /// Removes the key with this id or name.
    pub fn revoke(&self, id_or_name: &str) -> Result<AccessKey, KeysError> {
        let _lock = self.lock()?;
        let mut keys = self.list()?;
        // Ids first: a name may look like an id.
        let at = keys
            .iter()
            .position(|key| key.id == id_or_name)
            .or_else(|| keys.iter().position(|key| key.name == id_or_name))
            .ok_or_else(|| KeysError::NotFound(id_or_name.into()))?;
        let key = keys.remove(at);
        self.write(keys)?;
        Ok(key)
    }

    /// The keys and the file that they were read from; `None` if there is no file.
    pub(super) fn read(&self) -> Result<Option<(Vec<AccessKey>, File)>, KeysError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(KeysError::io("open", &self.path)(error)),
        };
        let read = KeysError::io("read", &self.path);
        let mode = match file.metadata() {
            Ok(metadata) => metadata.mode() & 0o777,
            Err(error) => return Err(read(error)),
        };
        if mode & 0o077 != 0 {
            return Err(KeysError::Open {
                path: self.path.clone(),
                mode,
            });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(read)?;
        let document: Document =
            serde_json::from_str(&text).map_err(|source| KeysError::Document {
                path: self.path.clone(),
                source,
            })?;
        if document.form != FORM {
            return Err(KeysError::TooNew {
                path: self.path.clone(),
                found: document.form,
            });
        }
        Ok(Some((document.keys, file)))
    }

    /// Replaces the file; it is on disk when this returns.
    fn write(&self, keys: Vec<AccessKey>) -> Result<(), KeysError> {
        let document = Document { form: FORM, keys };
        let text =
            serde_json::to_string_pretty(&document).map_err(|source| KeysError::Document {
                path: self.path.clone(),
                source,
            })?;
        let beside = self.path.with_extension("json.new");
        let write = || -> io::Result<()> {
            // A command that was killed may have left one, with any mode.
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = private(&beside)?;
            self.give_to_owner(&file)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(KeysError::io("write", &self.path))
    }

    /// When root makes keys for a controller that runs as another user, that user must be able to read
    /// them.
    fn give_to_owner(&self, file: &File) -> io::Result<()> {
        let folder = fs::metadata(&self.folder)?;
        if nix::unistd::geteuid().is_root() && folder.uid() != 0 {
            fchown(file, Some(folder.uid()), Some(folder.gid()))?;
        }
        Ok(())
    }

    /// Allows one change at a time.
    fn lock(&self) -> Result<Flock<File>, KeysError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(KeysError::io("create", &self.folder))?;
        let path = self.folder.join(LOCK);
        let file = match private(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                OpenOptions::new().write(true).open(&path)
            }
            made => made.and_then(|file| self.give_to_owner(&file).map(|()| file)),
        };
        let file = file.map_err(KeysError::io("open", &path))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| KeysError::io("lock", &path)(errno.into()))
    }
}

/// Creates a file that only its owner may read, from the start.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_with_restrictions_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::of(dir.path());
        file.create("k", Permissions::admin()).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        let narrowed = text.replace("\"admin\": true", "\"admin\": true, \"until\": \"2027\"");
        assert_ne!(narrowed, text);
        fs::write(file.path(), narrowed).unwrap();
        assert!(matches!(file.list(), Err(KeysError::Document { .. })));
    }

    #[test]
    fn the_file_is_readable_by_its_owner_only_and_refused_if_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::of(&dir.path().join("data"));
        file.create("k", Permissions::admin()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(file.path()), 0o600);
        assert_eq!(mode(&dir.path().join("data")), 0o700);
        for open in [0o640, 0o604, 0o620] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(open)).unwrap();
            assert!(
                matches!(file.list(), Err(KeysError::Open { .. })),
                "{open:o}"
            );
        }
    }

    #[test]
    fn keys_made_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::of(dir.path());
        std::thread::scope(|scope| {
            for n in 0..8 {
                let file = file.clone();
                scope.spawn(move || file.create(&format!("k{n}"), Permissions::admin()).unwrap());
            }
        });
        assert_eq!(file.list().unwrap().len(), 8);
    }

    #[test]
    fn names_are_unique_and_revoking_an_unknown_key_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::of(dir.path());
        let key = file.create("k", Permissions::admin()).unwrap();
        assert_eq!((key.key.id.len(), key.secret().len()), (20, 40));
        assert!(matches!(
            file.create("k", Permissions::admin()),
            Err(KeysError::Exists(_))
        ));
        assert!(matches!(
            file.create("a/b", Permissions::admin()),
            Err(KeysError::Key(_))
        ));
        assert!(matches!(file.revoke("x"), Err(KeysError::NotFound(_))));
    }
}
