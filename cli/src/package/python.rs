//! Dependencies of a Python function: pip puts the wheels of `requirements.txt` into a folder, as
//! they are on the guest (Linux x86_64, glibc), never as they would be on this machine. Nothing of
//! a dependency is run: only wheels are taken, so no `setup.py` is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

/// The guest's images are Debian 12: wheels for its glibc or an older one fit.
const NEWEST_GLIBC_MINOR: u32 = 36;
/// Oldest glibc that wheels are still named after in this form.
const OLDEST_GLIBC_MINOR: u32 = 17;

/// Folders that pip filled, one for each content of a `requirements.txt`, if that is all that they
/// depend on. They live as long as this does: a later process asks pip again, since requirements need
/// not name exact versions.
#[derive(Debug, Default)]
pub(crate) struct Vendor {
    filled: Mutex<HashMap<(Vec<u8>, String), TempDir>>,
}

/// Why dependencies are not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VendorError {
    /// The requirements can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No folder to put them in.
    #[error("no temporary folder for dependencies: {0}; check the space in $TMPDIR")]
    Temporary(std::io::Error),
    /// Not `pythonX.Y`.
    #[error("runtime {0:?}: expected a form like python3.11")]
    Runtime(String),
    /// No pip.
    #[error(
        "{requirements} needs pip, and `python3 -m pip` is not there: {message}; install it (Debian: \
         apt-get install python3-pip), or deploy a folder that holds the dependencies"
    )]
    NoPip {
        /// The file.
        requirements: PathBuf,
        /// What was seen.
        message: String,
    },
    /// Pip said no.
    #[error(
        "pip could not put the dependencies of {requirements} together for {runtime} on Linux x86_64 \
         (it takes wheels only, nothing is compiled):\n{message}"
    )]
    Pip {
        /// The file.
        requirements: PathBuf,
        /// The runtime.
        runtime: String,
        /// The end of what pip wrote.
        message: String,
    },
}

impl Vendor {
    /// Nothing filled yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A folder with the dependencies that `requirements` names.
    pub(super) fn vendored(
        &self,
        requirements: &Path,
        runtime: &str,
    ) -> Result<PathBuf, VendorError> {
        let text = std::fs::read(requirements).map_err(|source| VendorError::Read {
            path: requirements.to_owned(),
            source,
        })?;
        let key = (text, runtime.to_owned());
        let mut filled = self
            .filled
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(dir) = filled.get(&key)
            && !names_files(&String::from_utf8_lossy(&key.0))
        {
            return Ok(dir.path().to_owned());
        }
        let dir = tempfile::Builder::new()
            .prefix("hearth-pip-")
            .tempdir()
            .map_err(VendorError::Temporary)?;
        pip_install(requirements, runtime, dir.path())?;
        let path = dir.path().to_owned();
        filled.insert(key, dir);
        Ok(path)
    }
}

/// Whether other files of this machine have a say: requirements and constraints that are included,
/// packages that lie beside them. In doubt they have.
fn names_files(requirements: &str) -> bool {
    const OPTIONS: [&str; 8] = [
        "-r",
        "--requirement",
        "-c",
        "--constraint",
        "-e",
        "--editable",
        "-f",
        "--find-links",
    ];
    let lines = requirements.lines().map(str::trim_start);
    lines.filter(|line| !line.starts_with('#')).any(|line| {
        let path = line.contains('/') && !line.contains("://");
        path || line.contains("file:") || OPTIONS.iter().any(|option| line.starts_with(option))
    })
}

fn pip_install(requirements: &Path, runtime: &str, target: &Path) -> Result<(), VendorError> {
    let no_pip = |message: String| VendorError::NoPip {
        requirements: requirements.to_owned(),
        message,
    };
    let probe = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| no_pip(format!("python3: {error}")))?;
    if !probe.status.success() {
        return Err(no_pip(last_lines(&probe.stderr, 1)));
    }
    let output = Command::new("python3")
        .args(arguments(runtime)?)
        .arg("--target")
        .arg(target)
        .arg("--requirement")
        .arg(requirements)
        // Paths inside the file are relative to it.
        .current_dir(requirements.parent().unwrap_or(Path::new("/")))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| no_pip(format!("python3: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(VendorError::Pip {
        requirements: requirements.to_owned(),
        runtime: runtime.to_owned(),
        message: last_lines(&output.stderr, 12),
    })
}

/// Arguments that make pip choose wheels for the guest instead of this machine.
fn arguments(runtime: &str) -> Result<Vec<String>, VendorError> {
    let bad = || VendorError::Runtime(runtime.to_owned());
    let version = runtime.strip_prefix("python").ok_or_else(bad)?;
    let (major, minor) = version.split_once('.').ok_or_else(bad)?;
    if major.parse::<u8>().is_err() || minor.parse::<u8>().is_err() {
        return Err(bad());
    }
    let mut arguments: Vec<String> = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        // The guest compiles at deploy, into its snapshot; compiled here, files would differ from
        // run to run.
        "--no-compile",
        "--only-binary=:all:",
        "--implementation=cp",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--python-version={version}"));
    for minor in (OLDEST_GLIBC_MINOR..=NEWEST_GLIBC_MINOR).rev() {
        arguments.push(format!("--platform=manylinux_2_{minor}_x86_64"));
    }
    arguments.push("--platform=manylinux2014_x86_64".to_owned());
    Ok(arguments)
}

fn last_lines(output: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_is_told_of_the_guest_and_never_compiles() {
        let arguments = arguments("python3.11").unwrap();
        for needed in [
            "--python-version=3.11",
            "--only-binary=:all:",
            "--platform=manylinux_2_36_x86_64",
            "--platform=manylinux_2_17_x86_64",
        ] {
            assert!(
                arguments.iter().any(|argument| argument == needed),
                "{needed}"
            );
        }
        assert!(!arguments.iter().any(|argument| argument.contains("2_37")));
    }

    /// `hearth dev` went on serving what an included list had said before it was edited.
    #[test]
    fn what_other_files_have_a_say_in_is_put_together_anew() {
        for alone in [
            "requests==2.32.3\n# -r others.txt\n",
            "a >= 1 ; python_version < '3.12'\n--hash=sha256:00\n",
            "b @ https://host/b-1-py3-none-any.whl",
            "",
        ] {
            assert!(!names_files(alone), "{alone}");
        }
        for others in [
            "a\n-r base.txt",
            "  --constraint=pins.txt",
            "-e .",
            "./wheels/a-1-py3-none-any.whl",
            "wheels/a-1-py3-none-any.whl",
            "a @ file:///srv/a-1-py3-none-any.whl",
        ] {
            assert!(names_files(others), "{others}");
        }
    }

    #[test]
    fn a_runtime_that_is_no_python_is_refused() {
        for bad in [
            "python",
            "python3",
            "provided",
            "python3.x",
            "python3.11;rm",
        ] {
            assert!(arguments(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_end_of_a_long_output_is_kept() {
        assert_eq!(last_lines(b"a\n\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines(b"", 2), "");
    }
}
