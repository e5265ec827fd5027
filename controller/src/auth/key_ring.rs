//! The access keys of a running controller. For every signed request it checks whether the file of keys
//! has changed, and reads it again if so. A revoked key is refused from the next request on.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, RwLock};

use super::key::AccessKey;
use super::key_file::{KeyFile, KeysError};
use crate::locks::{read, write};

/// Identifies a file, to notice when another has replaced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[derive(Debug, Default)]
struct Loaded {
    stamp: Option<Stamp>,
    keys: HashMap<String, Arc<AccessKey>>,
    /// Kept open, so that the kernel does not give its inode to a new file: that file could have the
    /// same stamp and look unchanged.
    _file: Option<File>,
}

/// The current keys.
#[derive(Debug)]
pub(crate) struct KeyRing {
    file: KeyFile,
    loaded: RwLock<Loaded>,
}

impl KeyRing {
    pub(crate) fn open(file: KeyFile) -> Result<Self, KeysError> {
        let this = Self {
            file,
            loaded: RwLock::default(),
        };
        this.refresh()?;
        Ok(this)
    }

    pub(crate) fn is_empty(&self) -> bool {
        read(&self.loaded).keys.is_empty()
    }

    /// The key with this id. Fails if the file has changed and can't be read: the old copy could
    /// contain a revoked key.
    pub(crate) fn find(&self, id: &str) -> Result<Option<Arc<AccessKey>>, KeysError> {
        self.refresh()?;
        let loaded = read(&self.loaded);
        Ok(loaded.keys.get(id).cloned())
    }

    fn refresh(&self) -> Result<(), KeysError> {
        let now = match fs::metadata(self.file.path()) {
            Ok(metadata) => Some(Stamp::of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(KeysError::io("look at", self.file.path())(error)),
        };
        let known = read(&self.loaded).stamp;
        if now == known {
            return Ok(());
        }
        let fresh = match self.file.read()? {
            None => Loaded::default(),
            Some((keys, file)) => {
                // The stamp of the file that was read, which may be newer than the one of `now`.
                let metadata = file
                    .metadata()
                    .map_err(KeysError::io("look at", self.file.path()))?;
                tracing::info!(keys = keys.len(), "the controller has read the access keys");
                Loaded {
                    stamp: Some(Stamp::of(&metadata)),
                    keys: keys
                        .into_iter()
                        .map(|key| (key.id.clone(), Arc::new(key)))
                        .collect(),
                    _file: Some(file),
                }
            }
        };
        *write(&self.loaded) = fresh;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::Permissions;
    use super::*;

    #[test]
    fn new_and_revoked_keys_are_seen_without_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::of(dir.path());
        let ring = KeyRing::open(file.clone()).unwrap();
        assert!(ring.is_empty());
        let one = file.create("one", Permissions::admin()).unwrap();
        let two = file.create("two", Permissions::admin()).unwrap();
        let found = ring.find(&one.key.id).unwrap().unwrap();
        assert_eq!(found.secret.expose(), one.secret());
        file.revoke("one").unwrap();
        assert!(ring.find(&one.key.id).unwrap().is_none());
        assert!(ring.find(&two.key.id).unwrap().is_some());
        file.revoke(&two.key.id).unwrap();
        assert!(ring.find(&two.key.id).unwrap().is_none());
    }

    #[test]
    fn every_change_is_seen_however_quickly_they_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::of(dir.path());
        let ring = KeyRing::open(file.clone()).unwrap();
        for _ in 0..50 {
            // The same size each time, within one tick of the clock.
            let key = file.create("k", Permissions::admin()).unwrap().key;
            assert!(ring.find(&key.id).unwrap().is_some());
            file.revoke("k").unwrap();
            assert!(ring.find(&key.id).unwrap().is_none());
        }
    }

    #[test]
    fn no_key_is_found_while_the_file_can_not_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::of(dir.path());
        let key = file.create("k", Permissions::admin()).unwrap().key;
        let ring = KeyRing::open(file.clone()).unwrap();
        for broken in ["", "{", "{\"form\":2,\"keys\":[]}", "[]"] {
            fs::write(file.path(), broken).unwrap();
            assert!(ring.find(&key.id).is_err(), "{broken:?}");
        }
        fs::remove_file(file.path()).unwrap();
        assert!(ring.find(&key.id).unwrap().is_none());
    }
}
