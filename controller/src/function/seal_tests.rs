use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use super::*;

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let this = Self { folder };
        fs::write(this.path("state"), b"state").unwrap();
        let memory = File::create(this.path("memory")).unwrap();
        memory.set_len(1 << 20).unwrap();
        memory.write_all_at(b"page", 300 * 1024 + 5).unwrap();
        fs::write(this.path("image"), vec![7; 10_000]).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The files as a new controller process sees them.
    fn sealed(&self) -> Sealed {
        let files = ["state", "memory", "image"].map(|name| self.path(name));
        Sealed::new(self.folder.path(), files.to_vec(), "made of this".into())
    }

    fn flip(&self, name: &str, at: u64) {
        let path = self.path(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    }
}

/// Repeats `change` to a file until the file system's clock has ticked.
fn change(file: &File, change: impl Fn(&Path)) {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let before = Stamp::of(file).unwrap();
    while Stamp::of(file).unwrap() == before {
        change(&path);
    }
}

fn relink(path: &Path) {
    let link = path.with_extension("link");
    fs::hard_link(path, &link).unwrap();
    fs::remove_file(link).unwrap();
}

#[test]
fn unchanged_files_match_their_seal() {
    let fixture = Fixture::new();
    assert!(!fixture.sealed().is_verified());
    fixture.sealed().seal().unwrap();
    let sealed = fixture.sealed();
    assert!(!sealed.is_verified(), "verify was not called yet");
    sealed.verify().unwrap();
    assert!(sealed.is_verified());
}

#[test]
fn a_changed_byte_anywhere_is_noticed() {
    for (name, len) in [
        ("state", 5),
        ("memory", 1 << 20),
        ("image", 10_000),
        ("seal", 60),
    ] {
        for at in [0, len / 2, len - 1] {
            let fixture = Fixture::new();
            fixture.sealed().seal().unwrap();
            fixture.flip(name, at);
            let sealed = fixture.sealed();
            assert!(sealed.verify().is_err(), "byte {at} of {name}");
            assert!(!sealed.is_verified());
        }
    }
}

#[test]
fn a_change_after_the_comparison_is_noticed_on_the_open_files_too() {
    for name in ["state", "memory", "image"] {
        let fixture = Fixture::new();
        let sealed = fixture.sealed();
        sealed.seal().unwrap();
        let open =
            || ["state", "memory", "image"].map(|name| File::open(fixture.path(name)).unwrap());
        assert!(sealed.vouches_for(&open()));
        // The kernel's clock for files ticks every few milliseconds. Two changes in one tick have the
        // same time.
        let before = fs::metadata(fixture.path(name)).unwrap();
        let ticked = |now: Metadata| {
            (before.ctime(), before.ctime_nsec()) != (now.ctime(), now.ctime_nsec())
        };
        fixture.flip(name, 3);
        while !ticked(fs::metadata(fixture.path(name)).unwrap()) {
            fixture.flip(name, 3);
            fixture.flip(name, 3);
        }
        assert!(!sealed.vouches_for(&open()), "{name}");
        assert!(!sealed.is_verified(), "{name}");
        assert!(
            matches!(sealed.verify(), Err(SealError::Changed(path)) if path == fixture.path(name))
        );
    }
}

/// Publishing a version makes a hard link to the image of `$LATEST`. If an instance was just starting, its
/// good snapshot was discarded, and the invocation had to wait for a rebuild.
#[test]
fn another_name_for_an_image_is_no_change_of_it() {
    let fixture = Fixture::new();
    let sealed = fixture.sealed();
    sealed.seal().unwrap();
    let open = || ["state", "memory", "image"].map(|name| File::open(fixture.path(name)).unwrap());
    change(&File::open(fixture.path("image")).unwrap(), relink);
    assert!(!sealed.is_verified());
    assert!(sealed.vouches_for(&open()));
    assert!(sealed.is_verified());
}

/// A deploy failed if the image that it was sealing got a hard link at that moment.
#[test]
fn a_file_may_get_another_name_while_it_is_read_but_not_other_content() {
    let fixture = Fixture::new();
    let sum = |hash: fn(&File) -> io::Result<String>| {
        let known = Mutex::default();
        Sums { hash, known }.of(&fixture.path("image"))
    };
    let plain = sum(hash_plain).unwrap();
    let linked = sum(|file| {
        change(file, relink);
        hash_plain(file)
    });
    assert_eq!(linked.unwrap(), plain);
    let written = sum(|file| {
        change(file, |path| fs::write(path, vec![7; 10_000]).unwrap());
        hash_plain(file)
    });
    assert!(written.is_err());
}

#[test]
fn a_file_that_replaces_another_of_the_same_size_is_noticed() {
    let fixture = Fixture::new();
    let sealed = fixture.sealed();
    sealed.seal().unwrap();
    fs::remove_file(fixture.path("state")).unwrap();
    fs::write(fixture.path("state"), b"other").unwrap();
    assert!(!sealed.is_verified());
    assert!(sealed.verify().is_err());
}

#[test]
fn a_copy_without_holes_has_the_same_sum() {
    let fixture = Fixture::new();
    fixture.sealed().seal().unwrap();
    let bytes = fs::read(fixture.path("memory")).unwrap();
    fs::write(fixture.path("memory"), bytes).unwrap();
    fixture.sealed().verify().unwrap();
}

#[test]
fn a_longer_or_shorter_file_has_another_sum() {
    for len in [(1 << 20) - 4096, (1 << 20) + 4096] {
        let fixture = Fixture::new();
        fixture.sealed().seal().unwrap();
        let memory = File::options().write(true).open(fixture.path("memory"));
        memory.unwrap().set_len(len).unwrap();
        assert!(fixture.sealed().verify().is_err(), "{len} bytes");
    }
}

#[test]
fn files_without_a_seal_or_with_the_seal_of_others_are_refused() {
    let fixture = Fixture::new();
    assert!(matches!(
        fixture.sealed().verify(),
        Err(SealError::Io { .. })
    ));
    let others = Sealed {
        fingerprint: "made of that".into(),
        ..fixture.sealed()
    };
    others.seal().unwrap();
    assert!(matches!(
        fixture.sealed().verify(),
        Err(SealError::Foreign(_))
    ));
}

#[test]
fn a_kernel_or_image_without_its_recorded_sum_is_refused() {
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let fixture = Fixture::new();
    fs::write(fixture.path("vmlinux"), "abc").unwrap();
    check_artefact(&fixture.path("vmlinux"), ABC).unwrap();
    fs::write(fixture.path("vmlinux"), "abcd").unwrap();
    let error = check_artefact(&fixture.path("vmlinux"), ABC).unwrap_err();
    assert!(error.to_string().contains("vmlinux"), "{error}");
}
