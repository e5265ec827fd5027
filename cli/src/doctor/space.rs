//! Room on the file systems of the artefact cache and the data directory, and whether they can be
//! written.

use std::path::{Path, PathBuf};

use hearth_controller::Settings;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::Check;
use crate::output::size;

/// Below this not one more snapshot of a large function fits.
const TOO_LITTLE: u64 = 1 << 30;
/// Below this building a kernel from source, or a dozen functions, gets tight.
const LITTLE: u64 = 6 << 30;

/// Name of the check of the artefact cache.
const CACHE: &str = "cache";

/// One check for each directory.
pub(super) fn check(settings: &Settings) -> Vec<Check> {
    let directories = [
        (CACHE, settings.cache_dir(), "HEARTH_CACHE"),
        ("data", settings.data_dir(), "--data-dir"),
    ];
    directories
        .into_iter()
        .map(|(name, directory, setting)| match directory {
            Ok(directory) => directory_check(name, &directory, setting),
            Err(error) => Check::fail(name, error.to_string(), format!("set {setting}")),
        })
        .collect()
}

fn directory_check(name: &'static str, directory: &Path, setting: &str) -> Check {
    let existing = nearest_existing(directory);
    let not_yet = if existing == directory {
        ""
    } else {
        " (not made yet)"
    };
    let place = format!("{}{not_yet}", directory.display());
    if let Err(error) = access(&existing, AccessFlags::W_OK | AccessFlags::X_OK) {
        let found = format!("{place}: {} can't be written: {error}", existing.display());
        return not_writable(name, found, setting);
    }
    let free = match statvfs(&existing) {
        Ok(stat) => stat.blocks_available().saturating_mul(stat.fragment_size()),
        Err(error) => {
            return Check::warn(
                name,
                format!("{place}: {error}"),
                "its free space can't be read",
            );
        }
    };
    judge(name, &place, free, setting)
}

/// A controller only reads the cache; its own data it has to write.
fn not_writable(name: &'static str, found: String, setting: &str) -> Check {
    let advice = format!("give this user access, or choose another directory with {setting}");
    if name == CACHE {
        Check::warn(
            name,
            found,
            format!("to build kernel or images here, {advice}"),
        )
    } else {
        Check::fail(name, found, advice)
    }
}

fn judge(name: &'static str, place: &str, free: u64, setting: &str) -> Check {
    let found = format!("{place}, {} free", size(free));
    let advice = format!("make room, or choose a directory on another disk with {setting}");
    if free < TOO_LITTLE {
        Check::fail(name, found, advice)
    } else if free < LITTLE {
        Check::warn(name, found, advice)
    } else {
        Check::ok(name, found)
    }
}

/// The directory, or the closest one above it that is there.
fn nearest_existing(directory: &Path) -> PathBuf {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let existing = absolute.ancestors().find(|path| path.exists());
    existing.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn little_room_is_a_warning_and_hardly_any_a_failure() {
        let verdict = |free| judge("data", "/d", free, "X").verdict;
        assert_eq!(verdict(100 << 30), Verdict::Ok);
        assert_eq!(verdict(2 << 30), Verdict::Warn);
        assert_eq!(verdict(1 << 20), Verdict::Fail);
    }

    #[test]
    fn a_cache_may_be_read_only_and_a_data_directory_may_not() {
        let verdict = |name| not_writable(name, String::new(), "X").verdict;
        assert_eq!(verdict(CACHE), Verdict::Warn);
        assert_eq!(verdict("data"), Verdict::Fail);
    }

    #[test]
    fn a_directory_that_is_not_made_yet_is_judged_by_the_one_above_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest_existing(&dir.path().join("a/b")), dir.path());
        let check = directory_check("data", &dir.path().join("a/b"), "--data-dir");
        assert!(check.found.contains("not made yet"), "{check:?}");
    }
}
