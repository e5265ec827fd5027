//! Can CPU shares be enforced? Version 2 with a cpu controller, else version 1, as the controller
//! looks for them.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::Check;

const NAME: &str = "cgroups";
const MOUNT: &str = "/sys/fs/cgroup";

/// Looks for a cpu controller below which this user can make groups.
pub(super) fn check() -> Check {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let writable = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
    judge(&places(Path::new(MOUNT), &own), &writable)
}

/// A folder below which groups with a CPU share can be made, if this user may write there.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    version: u8,
    path: PathBuf,
}

fn places(mount: &Path, own: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for unified in [mount.to_owned(), mount.join("unified")] {
        let controllers = std::fs::read_to_string(unified.join("cgroup.controllers"));
        if controllers.is_ok_and(|list| list.split_whitespace().any(|name| name == "cpu")) {
            // A service manager delegates a group of its own to a service.
            let group = own.lines().find_map(|line| line.strip_prefix("0::/"));
            if let Some(group) = group.filter(|group| !group.is_empty()) {
                places.push(Place {
                    version: 2,
                    path: unified.join(group),
                });
            }
            places.push(Place {
                version: 2,
                path: unified,
            });
        }
    }
    for path in [mount.join("cpu"), mount.join("cpu,cpuacct")] {
        if path.join("cpu.shares").exists() {
            places.push(Place { version: 1, path });
        }
    }
    places
}

fn judge(places: &[Place], writable: &dyn Fn(&Path) -> bool) -> Check {
    if let Some(place) = places.iter().find(|place| writable(&place.path)) {
        let found = format!(
            "cpu controller, version {}, at {}",
            place.version,
            place.path.display()
        );
        return Check::ok(NAME, found);
    }
    match places.first() {
        Some(place) => Check::warn(
            NAME,
            format!("{} is not writable for this user", place.path.display()),
            "functions run, but CPU shares are not enforced: run as root, or as a systemd service \
             with Delegate=cpu memory pids (see deploy/)",
        ),
        None => Check::warn(
            NAME,
            format!("no cpu controller below {MOUNT}"),
            "functions run, but CPU shares are not enforced: mount cgroup2 with the cpu controller",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn version_2_comes_first_and_a_delegated_group_before_the_root() {
        let mount = tempfile::tempdir().unwrap();
        std::fs::write(mount.path().join("cgroup.controllers"), "cpuset cpu io\n").unwrap();
        std::fs::create_dir(mount.path().join("cpu")).unwrap();
        std::fs::write(mount.path().join("cpu/cpu.shares"), "1024").unwrap();
        let found = places(mount.path(), "0::/system.slice/hearthd.service\n");
        let paths: Vec<_> = found.iter().map(|place| place.path.clone()).collect();
        let group = mount.path().join("system.slice/hearthd.service");
        assert_eq!(
            paths,
            [group, mount.path().to_owned(), mount.path().join("cpu")]
        );
    }

    #[test]
    fn a_version_2_mount_without_cpu_does_not_count() {
        let mount = tempfile::tempdir().unwrap();
        std::fs::create_dir(mount.path().join("unified")).unwrap();
        std::fs::write(mount.path().join("unified/cgroup.controllers"), "hugetlb\n").unwrap();
        assert!(places(mount.path(), "").is_empty());
        assert_eq!(judge(&[], &|_| true).verdict, Verdict::Warn);
    }

    #[test]
    fn what_can_not_be_written_is_a_warning_that_says_how() {
        let place = Place {
            version: 1,
            path: "/x".into(),
        };
        let check = judge(&[place], &|_| false);
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.advice.unwrap().contains("Delegate"));
    }
}
