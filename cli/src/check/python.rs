//! A Python function, by the `python3` of this machine: it parses the handler's module and those that
//! the module imports, and runs none of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{CheckError, relative, split};
use crate::package::Package;
use crate::project::Project;

const SCRIPT: &str = include_str!("python.py");

/// What the script says.
#[derive(Debug, Deserialize)]
struct Found {
    /// Of the interpreter that read the code.
    version: (u32, u32),
    /// Of the handler's module.
    file: Option<PathBuf>,
    /// What the module defines; none if that is decided at run time.
    names: Option<Vec<String>>,
    /// Those of them that are plain functions.
    functions: Vec<String>,
    error: Option<Syntax>,
}

#[derive(Debug, Deserialize)]
struct Syntax {
    file: PathBuf,
    line: u64,
    message: String,
}

pub(super) fn check(project: &Project, package: &Package) -> Result<(), CheckError> {
    let (module, name) = split(&project.handler, "app.handler")?;
    let mut roots = vec![project.dir.as_path()];
    roots.extend(package.vendored.as_deref());
    match ask(&roots, &module.replace('/', ".")) {
        Some(found) => judge(project, found, &roots, module, name),
        None => Ok(()),
    }
}

/// Nothing if there is no Python that can be asked.
fn ask(roots: &[&Path], module: &str) -> Option<Found> {
    let output = Command::new("python3")
        // Isolated: nothing of the folder or of the environment is imported.
        .args(["-I", "-S", "-c", SCRIPT])
        .args(roots)
        .args(["--", module])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

fn judge(
    project: &Project,
    found: Found,
    roots: &[&Path],
    module: &str,
    name: &str,
) -> Result<(), CheckError> {
    if let Some(error) = found.error {
        // An older Python does not know all that a newer one does.
        if version(&project.runtime).is_none_or(|wanted| found.version < wanted) {
            return Ok(());
        }
        return Err(CheckError::Syntax {
            file: relative(&error.file, roots),
            line: error.line,
            message: error.message,
        });
    }
    let Some(file) = found.file else {
        let path = module.replace('.', "/");
        return Err(CheckError::NoModule {
            handler: project.handler.clone(),
            expected: format!("{path}.py"),
        });
    };
    let Some(names) = found.names else {
        return Ok(());
    };
    if names.iter().any(|known| known == name) {
        return Ok(());
    }
    let has = found.functions;
    Err(CheckError::NoHandler {
        file: relative(&file, roots),
        name: name.to_owned(),
        instead: match &has[..] {
            [only] => Some(format!("{module}.{only}")),
            _ => None,
        },
        has,
    })
}

/// Of `python3.11`: 3 and 11.
fn version(runtime: &str) -> Option<(u32, u32)> {
    let (major, minor) = runtime.strip_prefix("python")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hint, told};
    use super::*;

    /// A missing colon was told after a whole deploy.
    #[test]
    fn a_syntax_error_is_told_with_its_place_also_in_what_the_handler_imports() {
        let text = told(
            "app.handler",
            &[("app.py", "def handler(event, context)\n    pass\n")],
        );
        assert!(text.starts_with("app.py, line 1: expected ':'"), "{text}");
        let files = [
            (
                "app.py",
                "from lib.util import x\ndef handler(e, c): pass\n",
            ),
            ("lib/util.py", "\nx = (\n"),
            ("unused.py", "print 'two'\n"),
        ];
        let text = told("app.handler", &files);
        assert!(text.starts_with("lib/util.py, line 2: "), "{text}");
        assert_eq!(
            told(
                "app.handler",
                &[files[2], ("app.py", "def handler(e, c): pass")]
            ),
            ""
        );
    }

    #[test]
    fn a_handler_that_is_not_in_its_file_is_told_with_what_is() {
        let files = [(
            "app.py",
            "import os\ndef main(event, context): pass\n_hidden = 1\n",
        )];
        assert_eq!(
            told("app.handler", &files),
            "app.py has no \"handler\"; it has: main"
        );
        assert_eq!(told("app.main", &files), "");
        let text = told("application.main", &files);
        assert!(text.contains("has no application.py"), "{text}");
        assert!(told("handler", &files).contains("FILE.FUNCTION"));
        let one = [("app.py", "def main(event, context): pass\n")];
        assert_eq!(
            hint("app.handler", &one).as_deref(),
            Some("--handler app.main")
        );
    }

    #[test]
    fn names_that_come_in_another_way_are_found_or_not_judged() {
        for code in [
            "handler = lambda e, c: 1",
            "from lib import handler",
            "from lib import other as handler",
            "from lib import *",
            "if True:\n    def handler(e, c): pass",
            "try:\n    import fast\nexcept ImportError:\n    handler = None",
            "globals()['handler'] = print",
            "def __getattr__(name): return print",
            "def make():\n    global handler\n    handler = print\nmake()",
            "class handler: pass",
            "with open('x') as handler: pass",
            "(handler := print)",
        ] {
            assert_eq!(
                told("app.handler", &[("app.py", code), ("lib.py", "")]),
                "",
                "{code}"
            );
        }
        let package = [
            ("pkg/__init__.py", ""),
            ("pkg/app.py", "def handler(e, c): pass"),
        ];
        for handler in ["pkg.app.handler", "pkg/app.handler"] {
            assert_eq!(told(handler, &package), "");
        }
    }

    #[test]
    fn an_older_python_does_not_judge_newer_code() {
        let (_dir, project) = super::super::tests::project("app.handler", &[("app.py", "")]);
        let found = |version| Found {
            version,
            file: None,
            names: None,
            functions: Vec::new(),
            error: Some(Syntax {
                file: project.dir.join("app.py"),
                line: 1,
                message: "no".into(),
            }),
        };
        let judge = |version| judge(&project, found(version), &[&project.dir], "app", "handler");
        assert!(judge((3, 9)).is_ok());
        assert!(judge((3, 11)).is_err() && judge((3, 13)).is_err());
    }
}
