//! Code packages: arbitrary bytes, and what an accepted package unpacks to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hearth_rootfs::function::unpack_zip;
use tempfile::TempDir;
use walkdir::WalkDir;

thread_local! {
    /// Packages are unpacked here, into a folder of their own.
    static WORK: TempDir = tempfile::tempdir().expect("a place to unpack");
}

/// Unpacks the package and checks the result.
pub fn run(data: &[u8]) {
    WORK.with(|work| {
        let folder = work.path().join("task");
        match unpack_zip(data, &folder) {
            Ok(declared) => accepted(&folder, declared),
            // A refusal has a message, whatever the names in the package are.
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if !folder.exists() {
            return;
        }
        fs::remove_dir_all(&folder).expect("all in it is ours");
        let beside: Vec<_> = fs::read_dir(work.path()).expect("it is there").collect();
        assert!(beside.is_empty(), "files outside of the folder: {beside:?}");
    });
}

/// The sum is the declared one, nothing is set-user-id or unreadable, and links stay inside.
fn accepted(folder: &Path, declared: u64) {
    let root = folder.canonicalize().expect("it was made");
    let mut sum = 0;
    for entry in WalkDir::new(folder) {
        let entry = entry.expect("readable");
        let metadata = entry.metadata().expect("there");
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(entry.path()).expect("a link");
            sum += target.as_os_str().len() as u64;
            if let Ok(end) = entry.path().canonicalize() {
                assert!(
                    end.starts_with(&root),
                    "{} leads to {}",
                    entry.path().display(),
                    end.display()
                );
            }
            continue;
        }
        assert!(
            kind.is_file() || kind.is_dir(),
            "{}",
            entry.path().display()
        );
        let mode = metadata.permissions().mode() & 0o7777;
        assert!([0o644, 0o755].contains(&mode), "mode {mode:o}");
        if kind.is_file() {
            sum += metadata.len();
        }
    }
    assert_eq!(sum, declared);
}
