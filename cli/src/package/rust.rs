//! A Rust function: Cargo builds the folder's one program, which becomes `bootstrap`.
//!
//! It is linked statically: the host's C library may be newer than the guest's, and every shared
//! library is one more file to open and map when the function starts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// The guest is this.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// No Cargo.
    #[error(
        "{dir} has a Cargo.toml, and cargo can't be run: {source}; install Rust, or deploy a folder with a program called bootstrap"
    )]
    NoCargo {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Cargo said no.
    #[error("cargo build in {dir} failed ({status}); its messages are above")]
    Failed {
        /// The folder.
        dir: PathBuf,
        /// How Cargo ended.
        status: std::process::ExitStatus,
    },
    /// Not exactly one program.
    #[error(
        "{dir} builds {}; expected one program, or one that is called bootstrap",
        match found.len() { 0 => "no program".to_owned(), _ => format!("the programs {}", found.join(", ")) }
    )]
    Programs {
        /// The folder.
        dir: PathBuf,
        /// Names of the programs.
        found: Vec<String>,
    },
}

/// A line of `cargo build --message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds the folder in release mode; the program's path is the answer. Cargo's progress and
/// messages go to standard error.
pub(super) fn build(dir: &Path) -> Result<PathBuf, BuildError> {
    let mut command = Command::new("cargo");
    command
        .args(["build", "--release", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    // RUSTFLAGS, where it is set, hides every other source of flags.
    let variable = match std::env::var_os("RUSTFLAGS") {
        Some(_) => "RUSTFLAGS",
        None => "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
    };
    let mut flags = std::env::var(variable).unwrap_or_default();
    flags.push_str(" -C target-feature=+crt-static");
    command.env(variable, flags.trim());
    let output = command.output().map_err(|source| BuildError::NoCargo {
        dir: dir.to_owned(),
        source,
    })?;
    if !output.status.success() {
        return Err(BuildError::Failed {
            dir: dir.to_owned(),
            status: output.status,
        });
    }
    choose(programs(&output.stdout)).map_err(|found| BuildError::Programs {
        dir: dir.to_owned(),
        found,
    })
}

/// Name and path of each program that Cargo says it built.
fn programs(messages: &[u8]) -> Vec<(String, PathBuf)> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter_map(|message| {
            let target = message.target?;
            let is_program = target.kind.iter().any(|kind| kind == "bin");
            is_program.then_some(())?;
            Some((target.name, message.executable?))
        })
        .collect()
}

/// The only program, or the one with the right name; else the names there are.
fn choose(mut programs: Vec<(String, PathBuf)>) -> Result<PathBuf, Vec<String>> {
    let bootstrap = programs.iter().position(|(name, _)| name == "bootstrap");
    match (bootstrap, programs.len()) {
        (Some(index), _) => Ok(programs.swap_remove(index).1),
        (None, 1) => Ok(programs.swap_remove(0).1),
        _ => Err(programs.into_iter().map(|(name, _)| name).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &[u8] = br#"{"reason":"compiler-artifact","target":{"name":"build-script-build","kind":["custom-build"]},"executable":"/b"}
{"reason":"compiler-artifact","target":{"name":"lib","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","target":{"name":"echo","kind":["bin"]},"executable":"/t/echo"}
{"reason":"build-finished","success":true}
"#;

    #[test]
    fn the_only_program_is_taken_whatever_its_name() {
        let found = programs(MESSAGES);
        assert_eq!(found, [("echo".to_owned(), PathBuf::from("/t/echo"))]);
        assert_eq!(choose(found).unwrap(), Path::new("/t/echo"));
    }

    #[test]
    fn of_many_the_one_called_bootstrap_is_taken() {
        let two = |second: &str| {
            vec![
                ("a".to_owned(), "/a".into()),
                (second.to_owned(), "/b".into()),
            ]
        };
        assert_eq!(choose(two("bootstrap")).unwrap(), Path::new("/b"));
        assert_eq!(choose(two("b")).unwrap_err(), ["a", "b"]);
        assert!(choose(Vec::new()).unwrap_err().is_empty());
    }
}
