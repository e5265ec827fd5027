//! What the controller starts microVMs from: the guest kernel, the runtime images, the sandbox.

use hearth_controller::Settings;
use hearth_rootfs::cache::Cache;
use hearth_rootfs::{Artefact, Runtime, cached_kernel, cached_runtime};
use nix::unistd::{AccessFlags, access};

use super::Check;
use crate::output::size;

const BUILD: &str = "build it: `make images` in Hearth's repository, or hearth-rootfs";

const NOT_BUILT: &str = "not built yet";

const RUNTIMES: [(&str, Runtime); 4] = [
    ("python3.11", Runtime::Python311),
    ("nodejs20.x", Runtime::Node20),
    ("nodejs22.x", Runtime::Node22),
    ("provided", Runtime::Provided),
];

/// One check for each artefact.
pub(super) fn check(settings: &Settings) -> Vec<Check> {
    let mut checks = Vec::new();
    match settings.cache_dir() {
        // Opening a cache makes its folder; this command makes nothing.
        Ok(root) if !root.is_dir() => {
            checks.push(Check::fail(
                "guest kernel",
                format!("{} is empty", root.display()),
                BUILD,
            ));
            checks.extend(RUNTIMES.map(|(name, _)| Check::fail(name, NOT_BUILT, BUILD)));
        }
        Ok(root) => match Cache::open(&root) {
            Ok(cache) => {
                checks.push(artefact("guest kernel", cached_kernel(&cache)));
                for (name, runtime) in RUNTIMES {
                    checks.push(artefact(name, cached_runtime(&cache, runtime)));
                }
            }
            Err(error) => checks.push(Check::fail("guest kernel", error.to_string(), BUILD)),
        },
        Err(error) => checks.push(Check::fail(
            "guest kernel",
            error.to_string(),
            "set HEARTH_CACHE",
        )),
    }
    checks.push(sandbox(settings));
    checks
}

fn artefact(name: &'static str, found: hearth_rootfs::Result<Option<Artefact>>) -> Check {
    match found {
        Ok(Some(artefact)) => match artefact.path.metadata() {
            Ok(metadata) => {
                let short = artefact.sha256.get(..12).unwrap_or(&artefact.sha256);
                Check::ok(name, format!("{}, sha256 {short}…", size(metadata.len())))
            }
            Err(error) => Check::fail(name, format!("{}: {error}", artefact.path.display()), BUILD),
        },
        Ok(None) => Check::fail(name, NOT_BUILT, BUILD),
        Err(error) => Check::fail(name, error.to_string(), BUILD),
    }
}

fn sandbox(settings: &Settings) -> Check {
    const NAME: &str = "hearth-sandbox";
    let advice = "build it (`make build`), install it beside hearth, or say where it is with \
                  HEARTH_SANDBOX_BIN";
    match settings.sandbox_bin() {
        Ok(path) => match access(&path, AccessFlags::X_OK) {
            Ok(()) => Check::ok(NAME, path.display().to_string()),
            Err(error) => Check::fail(NAME, format!("{}: {error}", path.display()), advice),
        },
        Err(error) => Check::fail(NAME, error.to_string(), advice),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_cache_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::defaults().unwrap();
        settings.cache_dir = Some(dir.path().join("cache"));
        let checks = check(&settings);
        assert_eq!(checks[0].verdict, Verdict::Fail);
        assert!(checks[0].advice.as_deref().unwrap().contains("make images"));
        assert!(!dir.path().join("cache").exists());
        let missing = checks.iter().filter(|check| check.found == NOT_BUILT);
        assert_eq!(missing.count(), RUNTIMES.len());
    }

    #[test]
    fn an_empty_cache_lacks_kernel_and_images() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::defaults().unwrap();
        settings.cache_dir = Some(dir.path().to_owned());
        let missing = check(&settings)
            .into_iter()
            .filter(|check| check.found == "not built yet");
        assert_eq!(missing.count(), 1 + RUNTIMES.len());
    }
}
