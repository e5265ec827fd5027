//! The function that a folder describes: `hearth.toml`, the flags, and what is detected from its files
//! become one [`Project`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::Settings;
use crate::function_name::{FunctionName, NameError};
use crate::variable::{Variable, VariableError};

/// The file that describes a function beside its code.
pub(crate) const PROJECT_FILE: &str = "hearth.toml";

/// A folder and what it is to be deployed as.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// The folder, absolute and without symbolic links.
    pub(crate) dir: PathBuf,
    /// The function's name.
    pub(crate) name: FunctionName,
    /// Lambda's identifier of the runtime.
    pub(crate) runtime: String,
    /// What the runtime calls.
    pub(crate) handler: String,
    /// MiB; `None` leaves what the function has, or the default.
    pub(crate) memory: Option<u32>,
    /// Seconds; `None` leaves what the function has, or the default.
    pub(crate) timeout: Option<u32>,
    /// All variables of the function; `None` leaves those it has.
    pub(crate) environment: Option<BTreeMap<String, String>>,
    /// Files and folders that stay out of the package, relative to `dir`.
    pub(crate) exclude: Vec<PathBuf>,
}

/// `hearth.toml` as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectFile {
    name: Option<String>,
    runtime: Option<String>,
    handler: Option<String>,
    memory: Option<u32>,
    timeout: Option<u32>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    exclude: Vec<PathBuf>,
}

/// Why a folder can't be deployed as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProjectError {
    /// The argument names no folder.
    #[error("no folder {path}: {}", cause(source))]
    Folder {
        /// As it was given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The argument names something else.
    #[error("{0} is not a folder; give the folder that the function's code is in")]
    NotAFolder(PathBuf),
    /// The project file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The project file is no TOML, or says what nothing understands. The line itself is not
    /// shown: it may hold a variable's value.
    #[error("{path}, line {line}: {message}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// A number in the project file is out of range.
    #[error("{path}: {what} is {value}, expected {low} to {high}")]
    Range {
        /// The file.
        path: PathBuf,
        /// Which setting.
        what: &'static str,
        /// What it says.
        value: u32,
        /// Smallest allowed.
        low: u32,
        /// Largest allowed.
        high: u32,
    },
    /// A path to exclude leads out of the folder.
    #[error("{path}: exclude names {excluded:?}, expected a path inside the folder")]
    Exclude {
        /// The file.
        path: PathBuf,
        /// What it names.
        excluded: PathBuf,
    },
    /// The name, from wherever it came.
    #[error("{0}; give one with --name or in {PROJECT_FILE}")]
    Name(#[from] NameError),
    /// A variable, from wherever it came.
    #[error("environment: {0}")]
    Variable(#[from] VariableError),
    /// The runtime can't be detected from the folder's files.
    #[error("can't detect the runtime of {0}: no Cargo.toml, bootstrap, *.py or *.js in it")]
    Runtime(PathBuf),
    /// The handler is neither given nor detected.
    #[error(
        "no handler for {dir} ({runtime}){}",
        if found.is_empty() { String::new() } else { format!(": it could be {}", found.join(" or ")) }
    )]
    Handler {
        /// The folder.
        dir: PathBuf,
        /// Its runtime.
        runtime: String,
        /// Functions that are called like handlers.
        found: Vec<String>,
    },
}

/// Without the number that the system has for it.
fn cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// What the parser expects, in words that are not the program's own.
fn in_words(message: &str) -> String {
    message
        .replace("expected u32", "expected a whole number")
        .replace("expected a sequence", "expected a list such as [\"docs\"]")
}

impl ProjectError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Runtime(dir) => Some(to_compile(dir).map_or_else(
                || format!("give --runtime, or runtime = \"…\" in {PROJECT_FILE}"),
                str::to_owned,
            )),
            Self::Handler { dir, runtime, .. } => Some(
                to_compile(dir)
                    .filter(|_| runtime.starts_with("nodejs"))
                    .map_or_else(
                        || {
                            format!(
                                "give --handler, such as app.handler for the function handler in \
                                 app.py, or handler = \"…\" in {PROJECT_FILE}"
                            )
                        },
                        str::to_owned,
                    ),
            ),
            _ => None,
        }
    }
}

impl Project {
    /// Reads the folder and its project file; flags win.
    pub(crate) fn load(dir: &Path, flags: &Settings) -> Result<Self, ProjectError> {
        let folder = |source| ProjectError::Folder {
            path: dir.to_owned(),
            source,
        };
        if !dir.metadata().map_err(folder)?.is_dir() {
            return Err(ProjectError::NotAFolder(dir.to_owned()));
        }
        let dir = dir.canonicalize().map_err(folder)?;
        let file = ProjectFile::load(&dir.join(PROJECT_FILE))?;

        let name = match (&flags.name, &file.name) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) => name.parse()?,
            (None, None) => dir
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .parse()?,
        };
        let runtime = match flags.runtime.clone().or(file.runtime) {
            Some(runtime) => runtime,
            None => tell_runtime(&dir)
                .ok_or_else(|| ProjectError::Runtime(dir.clone()))?
                .to_owned(),
        };
        let handler = match flags.handler.clone().or(file.handler) {
            Some(handler) => handler,
            None => tell_handler(&dir, &runtime).map_err(|found| ProjectError::Handler {
                dir: dir.clone(),
                runtime: runtime.clone(),
                found,
            })?,
        };
        Ok(Self {
            name,
            runtime,
            handler,
            memory: flags.memory.or(file.memory),
            timeout: flags.timeout.or(file.timeout),
            environment: environment(&file.environment, flags)?,
            exclude: file.exclude,
            dir,
        })
    }
}

impl ProjectFile {
    fn load(path: &Path) -> Result<Self, ProjectError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                return Err(ProjectError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let file: Self = toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            ProjectError::Toml {
                path: path.to_owned(),
                line: text[..start].matches('\n').count() + 1,
                message: in_words(error.message()),
            }
        })?;
        let range = |what, value: Option<u32>, low, high| match value {
            Some(value) if !(low..=high).contains(&value) => Err(ProjectError::Range {
                path: path.to_owned(),
                what,
                value,
                low,
                high,
            }),
            _ => Ok(()),
        };
        range("memory", file.memory, 128, 10_240)?;
        range("timeout", file.timeout, 1, 900)?;
        let inside = |path: &Path| {
            let mut parts = path.components();
            path.components().next().is_some()
                && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        if let Some(excluded) = file.exclude.iter().find(|path| !inside(path)) {
            return Err(ProjectError::Exclude {
                path: path.to_owned(),
                excluded: excluded.clone(),
            });
        }
        Ok(file)
    }
}

/// The file's variables with the flags' over them; `None` if neither names any.
fn environment(
    file: &BTreeMap<String, String>,
    flags: &Settings,
) -> Result<Option<BTreeMap<String, String>>, ProjectError> {
    if file.is_empty() && flags.environment.is_empty() {
        return Ok(None);
    }
    let mut all = BTreeMap::new();
    for (name, value) in file {
        let variable = Variable::new(name, value)?;
        all.insert(variable.name, variable.value);
    }
    for unchecked in &flags.environment {
        let variable = unchecked.check()?;
        all.insert(variable.name, variable.value);
    }
    Ok(Some(all))
}

fn tell_runtime(dir: &Path) -> Option<&'static str> {
    if dir.join("Cargo.toml").is_file() || dir.join("bootstrap").is_file() {
        return Some("provided");
    }
    let entries = std::fs::read_dir(dir).ok()?;
    let found: Vec<_> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some(entry.path().extension()?.to_owned()))
        .collect();
    if found.iter().any(|extension| extension == "py") {
        return Some("python3.11");
    }
    let node = |extension: &_| ["js", "mjs", "cjs"].iter().any(|own| extension == own);
    found.iter().any(node).then_some("nodejs22.x")
}

/// Lambda's console calls a new Python function `lambda_function.lambda_handler` and one for Node.js
/// `index.handler`; a program of the `provided` runtimes gets the text and may ignore it. Otherwise the
/// only function of the folder that is called like a handler is one. The error lists those there are.
fn tell_handler(dir: &Path, runtime: &str) -> Result<String, Vec<String>> {
    if runtime.starts_with("provided") {
        return Ok("bootstrap".to_owned());
    }
    let node = runtime.starts_with("nodejs");
    if !node && dir.join("lambda_function.py").is_file() {
        return Ok("lambda_function.lambda_handler".to_owned());
    }
    let is_index = |own: &&str| dir.join("index").with_extension(own).is_file();
    if node && JAVASCRIPT.iter().any(is_index) {
        return Ok("index.handler".to_owned());
    }
    let mut found = handlers(dir, node);
    match found.len() {
        1 => Ok(found.remove(0)),
        _ => Err(found),
    }
}

const JAVASCRIPT: [&str; 3] = ["js", "mjs", "cjs"];

/// Every `handler` and `lambda_handler` in the folder's own files, by what a line begins with.
fn handlers(dir: &Path, node: bool) -> Vec<String> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = path.path();
        let (Some(stem), Some(extension)) = (
            path.file_stem().and_then(|stem| stem.to_str()),
            path.extension().and_then(|own| own.to_str()),
        ) else {
            continue;
        };
        let is_source = if node {
            JAVASCRIPT.contains(&extension)
        } else {
            extension == "py"
        };
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        if !is_source || stem.contains('.') {
            continue;
        }
        for name in ["handler", "lambda_handler"] {
            let begins: &[&str] = if node {
                &[
                    "exports.",
                    "module.exports.",
                    "export const ",
                    "export function ",
                    "export async function ",
                ]
            } else {
                &["def ", "async def "]
            };
            let ends = if node { &[' ', '=', '('][..] } else { &['('] };
            let defines = |line: &str| {
                begins.iter().any(|begin| {
                    let rest = line
                        .strip_prefix(begin)
                        .and_then(|rest| rest.strip_prefix(name));
                    rest.is_some_and(|rest| rest.starts_with(ends))
                })
            };
            if text.lines().any(defines) {
                found.push(format!("{stem}.{name}"));
            }
        }
    }
    found.sort();
    found
}

/// How a folder of source code that no runtime takes becomes one that one does.
fn to_compile(dir: &Path) -> Option<&'static str> {
    if dir.join("go.mod").is_file() {
        return Some(
            "GOOS=linux GOARCH=amd64 CGO_ENABLED=0 go build -o bootstrap . (then the runtime is provided)",
        );
    }
    let mut entries = std::fs::read_dir(dir).ok()?.flatten();
    let typescript = entries.any(|entry| entry.path().extension().is_some_and(|own| own == "ts"));
    typescript.then_some(
        "TypeScript is compiled first: npx esbuild index.ts --bundle --platform=node --outfile=dist/index.js, \
         then deploy the folder dist",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::Builder::new().prefix("fn").tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    const TOML: &str = "name = 'mail'\nruntime = 'python3.11'\nhandler = 'app.handler'\n\
                        memory = 256\ntimeout = 9\n[environment]\nSTAGE = 'test'\nKEEP = 'k'\n";

    #[test]
    fn the_project_file_is_enough() {
        let dir = folder(&[("hearth.toml", TOML)]);
        let project = Project::load(dir.path(), &Settings::default()).unwrap();
        assert_eq!(project.name.as_str(), "mail");
        assert_eq!(project.handler, "app.handler");
        assert_eq!((project.memory, project.timeout), (Some(256), Some(9)));
        assert_eq!(project.environment.unwrap()["STAGE"], "test");
    }

    #[test]
    fn flags_win_over_the_project_file() {
        let dir = folder(&[("hearth.toml", TOML)]);
        let flags = Settings {
            name: Some("other".parse().unwrap()),
            memory: Some(512),
            environment: vec!["STAGE=production".into()],
            ..Settings::default()
        };
        let project = Project::load(dir.path(), &flags).unwrap();
        assert_eq!(project.name.as_str(), "other");
        assert_eq!((project.memory, project.timeout), (Some(512), Some(9)));
        let environment = project.environment.unwrap();
        assert_eq!(environment["STAGE"], "production");
        assert_eq!(environment["KEEP"], "k");
    }

    #[test]
    fn without_a_project_file_the_folders_files_tell() {
        let python = folder(&[("lambda_function.py", "")]);
        let flags = Settings {
            name: Some("f".parse().unwrap()),
            ..Settings::default()
        };
        let project = Project::load(python.path(), &flags).unwrap();
        assert_eq!(project.runtime, "python3.11");
        assert_eq!(project.handler, "lambda_function.lambda_handler");
        assert!(project.environment.is_none());

        let shell = folder(&[("bootstrap", "#!/bin/sh\n")]);
        let project = Project::load(shell.path(), &flags).unwrap();
        assert_eq!(
            (&*project.runtime, &*project.handler),
            ("provided", "bootstrap")
        );
    }

    #[test]
    fn a_folder_of_javascript_is_a_function_for_node() {
        let flags = Settings {
            name: Some("f".parse().unwrap()),
            ..Settings::default()
        };
        for file in ["index.js", "index.mjs", "index.cjs"] {
            let dir = folder(&[(file, "")]);
            let project = Project::load(dir.path(), &flags).unwrap();
            assert_eq!(
                (&*project.runtime, &*project.handler),
                ("nodejs22.x", "index.handler")
            );
        }
        let named = folder(&[("app.mjs", "export const handler = async () => 1;")]);
        let project = Project::load(named.path(), &flags).unwrap();
        assert_eq!(project.handler, "app.handler");
        let other = folder(&[("app.mjs", "")]);
        let error = Project::load(other.path(), &flags).unwrap_err();
        assert!(matches!(error, ProjectError::Handler { .. }), "{error}");
    }

    /// The README's own convention was not guessed.
    #[test]
    fn the_only_function_that_is_called_handler_is_one() {
        let flags = Settings {
            name: Some("f".parse().unwrap()),
            ..Settings::default()
        };
        let app = (
            "app.py",
            "import os\n\nasync def handler(event, context):\n    pass\n",
        );
        let dir = folder(&[app, ("test_app.py", "def test_it(): pass")]);
        assert_eq!(
            Project::load(dir.path(), &flags).unwrap().handler,
            "app.handler"
        );
        let two = folder(&[
            app,
            ("other.py", "def lambda_handler(event, context): pass"),
        ]);
        let error = Project::load(two.path(), &flags).unwrap_err().to_string();
        assert!(
            error.ends_with("it could be app.handler or other.lambda_handler"),
            "{error}"
        );
    }

    #[test]
    fn source_code_that_has_to_be_compiled_is_told_how() {
        let flags = Settings {
            name: Some("f".parse().unwrap()),
            ..Settings::default()
        };
        for (file, words) in [
            ("index.ts", "esbuild"),
            ("go.mod", "go build"),
            ("x.txt", "--runtime"),
        ] {
            let dir = folder(&[(file, "")]);
            let hint = Project::load(dir.path(), &flags)
                .unwrap_err()
                .hint()
                .unwrap();
            assert!(hint.contains(words), "{hint}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let flags = Settings {
            name: Some("f".parse().unwrap()),
            ..Settings::default()
        };
        let python = folder(&[("main.py", "")]);
        let error = Project::load(python.path(), &flags).unwrap_err();
        assert!(matches!(error, ProjectError::Handler { .. }), "{error}");
        let empty = folder(&[]);
        let error = Project::load(empty.path(), &flags).unwrap_err();
        assert!(matches!(error, ProjectError::Runtime(_)), "{error}");
    }

    #[test]
    fn a_typing_mistake_in_the_project_file_is_told_with_its_place_and_no_value() {
        let dir = folder(&[("hearth.toml", "[environment]\nTOKEN = 'hunter2' oops\n")]);
        let error = Project::load(dir.path(), &Settings::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("hearth.toml, line 2"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let dir = folder(&[("hearth.toml", "memroy = 128\n")]);
        let error = Project::load(dir.path(), &Settings::default()).unwrap_err();
        assert!(error.to_string().contains("memroy"), "{error}");
    }

    #[test]
    fn what_is_expected_is_told_in_words() {
        let dir = folder(&[("hearth.toml", "memory = \"lots\"")]);
        let error = Project::load(dir.path(), &Settings::default())
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("expected a whole number"), "{error}");
        let missing = dir.path().join("missing");
        let error = Project::load(&missing, &Settings::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("no folder ") && !error.contains("os error"),
            "{error}"
        );
    }

    #[test]
    fn values_out_of_range_and_paths_out_of_the_folder_are_refused() {
        for bad in [
            "memory = 64",
            "timeout = 901",
            "exclude = ['../x']",
            "exclude = ['']",
            "name = 'a b'",
        ] {
            let dir = folder(&[("hearth.toml", bad), ("bootstrap", "")]);
            assert!(
                Project::load(dir.path(), &Settings::default()).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_file_is_no_folder() {
        let dir = folder(&[("app.py", "")]);
        let error = Project::load(&dir.path().join("app.py"), &Settings::default()).unwrap_err();
        assert!(matches!(error, ProjectError::NotAFolder(_)));
    }
}
