//! The mark beside the registry, `registry.mark`: which registry the data directory belongs to, and how
//! many changes it has had.
//!
//! A registry file can be lost, emptied, or replaced by an older copy or by one without its write-ahead
//! log. Such a registry lacks functions whose files are still in the data directory, and a start that
//! deletes files without a reference would delete those functions' code. So a start compares the registry
//! with the mark, and refuses a registry that the mark has outrun.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// Whether the registry is the one that the data directory's files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continuity {
    /// The mark says so: a file without a reference is left over from an interrupted change.
    Proven,
    /// There was no mark: an earlier version has written the data directory, or the mark was removed.
    Unproven,
}

/// The identity of a registry and the number of its changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// 32 hexadecimal digits.
    pub(super) id: String,
    pub(super) changes: u64,
}

impl Mark {
    /// The mark that the registry itself has.
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Self> {
        connection.query_row("SELECT id, changes FROM identity", [], |row| {
            Ok(Self {
                id: row.get(0)?,
                changes: row.get::<_, i64>(1)?.unsigned_abs(),
            })
        })
    }

    /// Always of the same length, so that a write in place needs no new block of a full disk.
    fn text(&self) -> String {
        format!("{} {:020}\n", self.id, self.changes)
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, changes) = text.trim_end().split_once(' ')?;
        let hexadecimal = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let changes = changes.parse().ok()?;
        hexadecimal.then(|| Self {
            id: id.into(),
            changes,
        })
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct MarkFile {
    path: PathBuf,
    file: Option<File>,
}

impl MarkFile {
    /// The file beside a registry.
    pub(super) fn beside(registry: &Path) -> Self {
        Self {
            path: registry.with_extension("mark"),
            file: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says; `None` if there is none, or nothing that a controller has written.
    pub(super) fn read(&self) -> io::Result<Option<Mark>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Mark::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a mark, after the registry's commit. A mark that could not be written is older than the
    /// registry, which is harmless: the next start takes it for proven.
    pub(super) fn write(&mut self, mark: &Mark) {
        if let Err(error) = self.try_write(mark) {
            tracing::warn!(
                path = %self.path.display(),
                %error,
                "the controller could not write the registry's mark"
            );
        }
    }

    fn try_write(&mut self, mark: &Mark) -> io::Result<()> {
        if self.file.is_none() {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&self.path)?;
            self.file = Some(file);
        }
        let file = self.file.as_ref().expect("opened above");
        file.write_all_at(mark.text().as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_other_bytes_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = MarkFile::beside(&dir.path().join("registry.db"));
        assert_eq!(file.read().unwrap(), None);
        for changes in [0, 7, u64::MAX] {
            let id = "0123456789abcdef".repeat(2);
            let mark = Mark { id, changes };
            file.write(&mark);
            assert_eq!(file.read().unwrap(), Some(mark));
        }
        for other in ["", "x", "0123 4", "\0\0\0"] {
            fs::write(file.path(), other).unwrap();
            assert_eq!(file.read().unwrap(), None, "{other:?}");
        }
    }
}
