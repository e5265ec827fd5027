//! Checks for enough free disk space before a build.

use std::path::{Path, PathBuf};

/// Why a build is not started.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// There is not enough free space.
    #[error(
        "not enough space in {}: {needed_mib} MiB needed, {available_mib} MiB available; \
         free some, or set HEARTH_CACHE to a folder on a larger disk",
        path.display()
    )]
    Full {
        /// The folder that the build writes to.
        path: PathBuf,
        /// Space that the build needs at its peak.
        needed_mib: u64,
        /// Free space that this user may use.
        available_mib: u64,
    },
    /// The file system's free space could not be read.
    #[error("cannot ask for the free space of {}: {source}", path.display())]
    Ask {
        /// The folder.
        path: PathBuf,
        /// The error.
        source: nix::Error,
    },
}

/// Fails unless `mib` mebibytes can be written below `path`, which exists.
pub(crate) fn require(path: &Path, mib: u64) -> Result<(), SpaceError> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|source| SpaceError::Ask {
        path: path.to_owned(),
        source,
    })?;
    let available_mib = stat.blocks_available().saturating_mul(stat.fragment_size()) >> 20;
    if available_mib < mib {
        return Err(SpaceError::Full {
            path: path.to_owned(),
            needed_mib: mib,
            available_mib,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_how_much_is_needed_and_how_much_is_there() {
        let dir = tempfile::tempdir().unwrap();
        require(dir.path(), 0).unwrap();
        let error = require(dir.path(), u64::MAX).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        assert!(
            error.contains("needed") && error.contains("available"),
            "{error}"
        );
    }
}
