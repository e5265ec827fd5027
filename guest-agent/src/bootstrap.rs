//! Chooses the program that a function is started with.

use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Why no program can be started. The texts are Lambda's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoBootstrap {
    #[error("Couldn't find valid bootstrap(s): [{}]", .0.join(" "))]
    NotFound(Vec<String>),
    #[error("fork/exec {0}: permission denied")]
    NotExecutable(String),
}

/// The first candidate that is an executable file.
pub(crate) fn choose(candidates: &[String]) -> Result<&str, NoBootstrap> {
    let mut not_executable = None;
    for path in candidates {
        // A file whose metadata cannot be read cannot be started either.
        let Ok(metadata) = fs::metadata(path) else {
            continue;
        };
        if !metadata.is_file() {
            continue;
        }
        if metadata.permissions().mode() & 0o111 != 0 {
            return Ok(path);
        }
        not_executable.get_or_insert(path);
    }
    Err(match not_executable {
        Some(path) => NoBootstrap::NotExecutable(path.clone()),
        None => NoBootstrap::NotFound(candidates.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &std::path::Path, name: &str, mode: u32) -> String {
        let path = dir.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_first_executable_candidate_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let plain = file(dir.path(), "plain", 0o644);
        let first = file(dir.path(), "first", 0o755);
        let second = file(dir.path(), "second", 0o755);
        let folder = dir.path().to_str().unwrap().to_owned();
        let candidates = ["/nowhere".into(), folder, plain, first.clone(), second];
        assert_eq!(choose(&candidates), Ok(first.as_str()));
    }

    #[test]
    fn without_one_the_error_says_what_was_looked_for() {
        let candidates = [
            "/nowhere/bootstrap".to_owned(),
            "/none/bootstrap".to_owned(),
        ];
        assert_eq!(
            choose(&candidates).unwrap_err().to_string(),
            "Couldn't find valid bootstrap(s): [/nowhere/bootstrap /none/bootstrap]"
        );
    }

    #[test]
    fn a_file_that_is_not_executable_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let plain = file(dir.path(), "bootstrap", 0o644);
        assert_eq!(
            choose(std::slice::from_ref(&plain)).unwrap_err(),
            NoBootstrap::NotExecutable(plain)
        );
    }
}
