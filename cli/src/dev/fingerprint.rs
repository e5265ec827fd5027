//! Which state a folder is in: a hash over what the system says of each file. Two equal
//! fingerprints mean that no file changed in between; contents are not read.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::package::Selection;
use crate::project::PROJECT_FILE;

/// The kernel stamps files with the time of its last tick. Two changes within one tick carry the
/// same stamp, so a state is only trusted once its newest stamp is this old. It also waits for
/// editors that save a file in several steps.
const SETTLED: Duration = Duration::from_millis(25);

/// A state of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

#[cfg(test)]
impl Fingerprint {
    /// One that differs for each `n`.
    pub(super) fn of_test(n: u8) -> Self {
        Self([n; 32])
    }
}

/// A fingerprint and the newest change that it covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) fingerprint: Fingerprint,
    newest: Option<SystemTime>,
}

impl Seen {
    /// Whether a further change would give another fingerprint.
    pub(super) fn is_settled(&self) -> bool {
        let age = |time: SystemTime| SystemTime::now().duration_since(time).ok();
        // A stamp in the future: the clock was set back. It will not come again.
        self.newest.and_then(age).is_none_or(|age| age >= SETTLED)
    }
}

/// Looks at every file that goes into the package, and at the project's description.
pub(super) fn look(selection: &Selection) -> Seen {
    let mut lines = Vec::new();
    let mut newest = None;
    for found in selection.walk() {
        // An unreadable file is part of the state: the deploy reports the error.
        let Ok(metadata) = found
            .as_ref()
            .map_err(|_| ())
            .and_then(|f| f.metadata().map_err(|_| ()))
        else {
            lines.push(b"unreadable".to_vec());
            continue;
        };
        let path = found
            .as_ref()
            .map(|found| found.path().to_owned())
            .unwrap_or_default();
        lines.push(line(&path, &metadata));
        newest = newest.max(changed(&metadata));
    }
    let description = selection.root().join(PROJECT_FILE);
    if let Ok(metadata) = description.metadata() {
        lines.push(line(&description, &metadata));
        newest = newest.max(changed(&metadata));
    }
    // A folder is listed in no particular order.
    lines.sort();
    let mut hash = Sha256::new();
    for line in lines {
        hash.update((line.len() as u64).to_le_bytes());
        hash.update(&line);
    }
    Seen {
        fingerprint: Fingerprint(hash.finalize().into()),
        newest,
    }
}

fn line(path: &std::path::Path, metadata: &std::fs::Metadata) -> Vec<u8> {
    let mut line = path.as_os_str().as_encoded_bytes().to_vec();
    line.push(0);
    // A folder's own times change with every file that comes or goes, wanted or not: an editor's
    // swap file must not look like a change. Its wanted files have lines of their own.
    if !metadata.is_dir() {
        for number in [
            i128::from(metadata.dev()),
            i128::from(metadata.ino()),
            i128::from(metadata.size()),
            i128::from(metadata.mode()),
            i128::from(metadata.mtime()),
            i128::from(metadata.mtime_nsec()),
            i128::from(metadata.ctime()),
            i128::from(metadata.ctime_nsec()),
        ] {
            line.extend(number.to_le_bytes());
        }
    }
    line
}

/// Time of the file's last change of any kind (`ctime`). Unlike `mtime`, no program can set it.
fn changed(metadata: &std::fs::Metadata) -> Option<SystemTime> {
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    let nanoseconds = u32::try_from(metadata.ctime_nsec()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Selection) {
        let dir = tempfile::Builder::new().prefix("fn").tempdir().unwrap();
        std::fs::write(dir.path().join("lambda_function.py"), "one").unwrap();
        let flags = crate::args::Settings {
            name: Some("f".parse().unwrap()),
            ..Default::default()
        };
        let project = crate::project::Project::load(dir.path(), &flags).unwrap();
        (dir, Selection::of(&project))
    }

    /// Waits until the folder's newest stamp is old enough, as the deployer does.
    fn settled(selection: &Selection) -> Fingerprint {
        loop {
            let seen = look(selection);
            if seen.is_settled() {
                return seen.fingerprint;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_untouched_folder_keeps_its_fingerprint() {
        let (_dir, selection) = folder();
        let before = settled(&selection);
        assert_eq!(before, look(&selection).fingerprint);
    }

    #[test]
    fn every_kind_of_change_is_seen_even_of_the_same_length_and_time() {
        let (dir, selection) = folder();
        let file = dir.path().join("lambda_function.py");
        let mut seen = vec![settled(&selection)];
        let mut expect_new = |what: &str| {
            let now = settled(&selection);
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        };
        let time = file.metadata().unwrap().modified().unwrap();
        std::fs::write(&file, "two").unwrap();
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(time)
            .unwrap();
        expect_new("same length, same modification time");
        std::fs::write(dir.path().join("more.py"), "").unwrap();
        expect_new("a new file");
        std::fs::rename(dir.path().join("more.py"), dir.path().join("moved.py")).unwrap();
        expect_new("a file moved");
        std::fs::remove_file(dir.path().join("moved.py")).unwrap();
        std::fs::write(dir.path().join("hearth.toml"), "timeout = 4").unwrap();
        expect_new("the description");
    }

    #[test]
    fn files_that_stay_out_of_the_package_do_not_matter() {
        let (dir, selection) = folder();
        let before = settled(&selection);
        std::fs::create_dir(dir.path().join("__pycache__")).unwrap();
        std::fs::write(dir.path().join("__pycache__/x.pyc"), "x").unwrap();
        assert_eq!(before, look(&selection).fingerprint);
    }
}
