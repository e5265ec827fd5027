//! How the kernel build fails, tested with archives that are small enough to unpack at once.

use std::process::Command;

use super::*;
use crate::Error;
use crate::progress::Quiet;

/// A cache, and an archive with these files in a folder `linux/`.
fn with_source(files: &[(&str, &str)]) -> (tempfile::TempDir, Cache, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join("linux").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let archive = dir.path().join("linux.tar");
    let made = Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(dir.path())
        .arg("linux")
        .status()
        .unwrap();
    assert!(made.success());
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    (dir, cache, archive)
}

fn build(cache: &Cache, archive: &Path, patches: &[&str], fragment: &str) -> Error {
    let options = KernelOptions {
        source: Some(archive.to_owned()),
        patches: patches.iter().copied().map(str::to_owned).collect(),
        fragment: fragment.to_owned(),
    };
    let error = build_kernel_from(cache, &options, &Quiet).unwrap_err();
    let left = fs::read_dir(cache.root().join("kernel")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "a failed build leaves nothing");
    error
}

const PATCH_OF_A: &str = "--- a/a.c\n+++ b/a.c\n@@ -1 +1,2 @@\n one\n+two\n";

#[test]
fn a_missing_source_names_the_package() {
    let (dir, cache, _) = with_source(&[("Kconfig", "")]);
    let error = build(&cache, &dir.path().join("none.tar.xz"), &[], "").to_string();
    assert!(error.contains("none.tar.xz"), "{error}");
    assert!(
        error.contains("apt-get install linux-source-6.12"),
        "{error}"
    );
}

#[test]
fn an_archive_of_something_else_is_refused() {
    let (_dir, cache, archive) = with_source(&[("README", "")]);
    let error = build(&cache, &archive, &[], "").to_string();
    assert!(error.contains("no kernel source"), "{error}");
}

#[test]
fn a_patch_that_does_not_apply_is_refused() {
    let (_dir, cache, archive) = with_source(&[("Kconfig", ""), ("a.c", "other\n")]);
    let error = build(&cache, &archive, &[PATCH_OF_A], "").to_string();
    assert!(error.contains("the patch does not apply"), "{error}");
    assert!(error.contains("FAILED"), "{error}");
}

#[test]
fn each_patch_is_applied_on_top_of_those_before_it() {
    let second = "--- a/a.c\n+++ b/a.c\n@@ -1,2 +1,3 @@\n one\n two\n+three\n";
    let (_dir, cache, archive) = with_source(&[("Kconfig", ""), ("a.c", "one\n")]);
    let wrong_order = build(&cache, &archive, &[second, PATCH_OF_A], "").to_string();
    assert!(
        wrong_order.contains("the patch does not apply"),
        "{wrong_order}"
    );
    // There is no makefile: the patches are applied, and then the configuration fails.
    let right_order = build(&cache, &archive, &[PATCH_OF_A, second], "").to_string();
    assert!(!right_order.contains("patch"), "{right_order}");
}

#[test]
fn an_option_that_is_dropped_is_refused() {
    // A replacement for Kconfig that takes only one of the two options.
    let makefile = "allnoconfig:\n\techo CONFIG_A=y > .config\n";
    let files = [("Kconfig", ""), ("Makefile", makefile), ("a.c", "one\n")];
    let (_dir, cache, archive) = with_source(&files);
    let error = build(&cache, &archive, &[PATCH_OF_A], "CONFIG_A=y\nCONFIG_B=y\n").to_string();
    assert!(error.contains("CONFIG_B: y wanted, n taken"), "{error}");
    assert!(!error.contains("CONFIG_A"), "{error}");
}

#[test]
fn a_compiler_s_failure_shows_its_words_and_what_to_install() {
    let makefile = "allnoconfig:\n\ttouch .config\nvmlinux:\n\techo no gelf.h; exit 2\n";
    let files = [("Kconfig", ""), ("Makefile", makefile), ("a.c", "one\n")];
    let (_dir, cache, archive) = with_source(&files);
    let error = build(&cache, &archive, &[PATCH_OF_A], "").to_string();
    assert!(error.contains("no gelf.h"), "{error}");
    assert!(error.contains("libelf-dev"), "{error}");
}

#[test]
fn the_fragment_names_each_option_once() {
    let mut options: Vec<&str> = FRAGMENT
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter_map(|line| line.split('=').next())
        .collect();
    let all = options.len();
    options.sort_unstable();
    options.dedup();
    assert_eq!(options.len(), all);
}
