//! What can be known of a function's code before it is deployed: whether it parses, whether the handler
//! is in it, whether its dependencies are in the package. A deploy tells the same, a minute later.
//!
//! A check refuses only what can't work. Where it can't be sure (no interpreter on this machine, an older
//! one than the function's, code that defines names at run time) it lets the deploy decide.
//!
//! * [`python`]: asks the `python3` of this machine, which reads the code and runs none of it
//! * [`node`]: asks the `node` of this machine

mod node;
mod python;

use std::path::{Path, PathBuf};

pub(crate) use node::DEPENDENCIES as NODE_DEPENDENCIES;

use crate::client::Client;
use crate::package::Package;
use crate::project::{PROJECT_FILE, Project};

/// Why a function would not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// The code does not parse.
    #[error("{file}, line {line}: {message}")]
    Syntax {
        /// Relative to the folder.
        file: String,
        /// Counted from 1; 0 if it is not known.
        line: u64,
        /// What the interpreter says.
        message: String,
    },
    /// The handler's file is not there.
    #[error("no file for the handler {handler:?}: the package has no {expected}")]
    NoModule {
        /// As it was given.
        handler: String,
        /// The files that were looked for.
        expected: String,
    },
    /// The handler's file does not define it.
    #[error(
        "{file} has no {name:?}; {}",
        if has.is_empty() { "it has no function".to_owned() } else { format!("it has: {}", has.join(", ")) }
    )]
    NoHandler {
        /// Relative to the folder.
        file: String,
        /// What the runtime would look for.
        name: String,
        /// What there is.
        has: Vec<String>,
        /// A handler that would be found.
        instead: Option<String>,
    },
    /// A text without a dot.
    #[error("handler {handler:?}: expected FILE.FUNCTION, such as {example}")]
    Form {
        /// As it was given.
        handler: String,
        /// A good one.
        example: &'static str,
    },
    /// A dependency is not in the package.
    #[error(
        "{file} needs {dependency:?} of {}, and the package has no node_modules/{dependency}",
        NODE_DEPENDENCIES
    )]
    NoDependency {
        /// Relative to the folder.
        file: String,
        /// The package's name.
        dependency: String,
        /// The function's folder.
        dir: PathBuf,
        /// Whether there is a file that says which versions were tried.
        locked: bool,
    },
}

impl CheckError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Syntax { .. } => None,
            Self::NoModule { .. } | Self::Form { .. } => Some(format!(
                "--handler FILE.FUNCTION names it, or handler = \"…\" in {PROJECT_FILE}"
            )),
            Self::NoHandler { instead, .. } => Some(format!("--handler {}", instead.as_ref()?)),
            Self::NoDependency { dir, locked, .. } => Some(format!(
                "cd {} && npm {} --omit=dev",
                dir.display(),
                if *locked { "ci" } else { "install" }
            )),
        }
    }

    /// Whether a layer could contain the missing file.
    fn may_be_in_a_layer(&self) -> bool {
        matches!(self, Self::NoModule { .. } | Self::NoDependency { .. })
    }
}

/// Refuses code that can't come up. What a layer may bring is not missed if the function has layers.
pub(crate) fn check(
    client: &Client,
    project: &Project,
    package: &Package,
) -> Result<(), CheckError> {
    match look(project, package) {
        Err(error) if error.may_be_in_a_layer() => {
            let current = client.configuration(&project.name);
            if current.is_ok_and(|function| !function.layers.is_empty()) {
                return Ok(());
            }
            Err(error)
        }
        other => other,
    }
}

/// Looks at the code that `package` holds.
fn look(project: &Project, package: &Package) -> Result<(), CheckError> {
    if project.runtime.starts_with("python") {
        python::check(project, package)
    } else if project.runtime.starts_with("nodejs") {
        node::check(project, package)
    } else {
        Ok(())
    }
}

/// `path` as it is called in the package.
fn relative(path: &Path, roots: &[&Path]) -> String {
    let inside = roots.iter().find_map(|root| path.strip_prefix(root).ok());
    inside.unwrap_or(path).display().to_string()
}

/// A handler's file and function.
fn split<'a>(handler: &'a str, example: &'static str) -> Result<(&'a str, &'a str), CheckError> {
    match handler.rsplit_once('.') {
        Some((file, function)) if !file.is_empty() && !function.is_empty() => Ok((file, function)),
        _ => Err(CheckError::Form {
            handler: handler.to_owned(),
            example,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Settings;
    use crate::package::{Vendor, build};

    pub(super) fn project(handler: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Project) {
        let dir = tempfile::Builder::new().prefix("fn").tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let flags = Settings {
            name: Some("f".parse().unwrap()),
            handler: Some(handler.into()),
            // What lies in folders only is not detected.
            runtime: Some(if files.iter().any(|(name, _)| name.ends_with(".py")) {
                "python3.11".into()
            } else {
                "nodejs22.x".into()
            }),
            ..Settings::default()
        };
        let project = Project::load(dir.path(), &flags).unwrap();
        (dir, project)
    }

    fn result(handler: &str, files: &[(&str, &str)]) -> Result<(), CheckError> {
        let (_dir, project) = project(handler, files);
        let package = build(&project, &Vendor::new()).unwrap();
        look(&project, &package)
    }

    /// The error's words, or nothing.
    pub(super) fn told(handler: &str, files: &[(&str, &str)]) -> String {
        result(handler, files).map_or_else(|error| error.to_string(), |()| String::new())
    }

    pub(super) fn hint(handler: &str, files: &[(&str, &str)]) -> Option<String> {
        result(handler, files).unwrap_err().hint()
    }

    #[test]
    fn what_a_layer_may_bring_is_not_missed() {
        let (_dir, project) = project("elsewhere.handler", &[("app.py", "")]);
        let package = build(&project, &Vendor::new()).unwrap();
        let layered = r#"{"FunctionName":"f","MemorySize":128,"Timeout":3,"Layers":[{"Arn":"a"}]}"#;
        let client = crate::client::testing::client_of(&[("/f/configuration", layered)]);
        check(&client, &project, &package).unwrap();
        let client = crate::client::testing::client_of(&[]);
        assert!(check(&client, &project, &package).is_err());
    }
}
