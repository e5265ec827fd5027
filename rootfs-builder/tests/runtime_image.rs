//! Builds runtime images from real packages. Needs mmdebstrap, erofs-utils and a Debian mirror; it
//! uses the packages in the user's own artefact cache if it has them.

use std::fs;
use std::path::Path;

use hearth_rootfs::cache::Cache;
use hearth_rootfs::progress::Terminal;
use hearth_rootfs::{MailboxFiles, Runtime, build_runtime, cached_runtime};

/// The smallest file that passes as an agent: an ELF header for x86-64.
fn agent(path: &Path, mark: u8) {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[18] = 62;
    elf.push(mark);
    fs::write(path, elf).expect("the temporary folder is writable");
}

/// The images are built in new caches that share the unpacked packages, so that only the cheap part
/// of the build runs twice.
#[test]
fn the_same_inputs_give_the_same_bytes_and_another_agent_another_image() {
    let shared = Cache::open(&Cache::default_root().unwrap()).unwrap();
    let dir = tempfile::tempdir_in(shared.root()).unwrap();
    let one = dir.path().join("agent-1");
    let two = dir.path().join("agent-2");
    agent(&one, 1);
    agent(&two, 2);

    fs::create_dir_all(shared.root().join("trees")).unwrap();
    let build = |name: &str, agent: &Path| {
        let root = dir.path().join(name);
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(shared.root().join("trees"), root.join("trees")).unwrap();
        let cache = Cache::open(&root).unwrap();
        let files = MailboxFiles {
            library: one.clone(),
            node_module: one.clone(),
        };
        let image = build_runtime(
            &cache,
            Runtime::Provided,
            agent,
            &files,
            &Terminal::stderr(),
        )
        .unwrap();
        assert_eq!(
            cached_runtime(&cache, Runtime::Provided).unwrap().as_ref(),
            Some(&image)
        );
        image
    };
    let first = build("a", &one);
    let second = build("b", &one);
    let other = build("c", &two);
    assert_eq!(first.sha256, second.sha256);
    assert_eq!(
        fs::read(&first.path).unwrap(),
        fs::read(&second.path).unwrap()
    );
    assert_ne!(first.sha256, other.sha256);
    assert_eq!(fs::metadata(&first.path).unwrap().len() % 512, 0);
}
