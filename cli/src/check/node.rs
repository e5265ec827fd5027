//! A Node.js function, by the `node` of this machine, which checks the syntax of the handler's file and
//! runs none of it. The rest is read as text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{CheckError, relative, split};
use crate::package::Package;
use crate::project::Project;

/// Where npm writes down what a folder needs.
pub(crate) const DEPENDENCIES: &str = "package.json";
/// Largest source file that is read: a larger one is made by a bundler.
const MAX_SOURCE: u64 = 4 << 20;
/// Lambda's order.
const EXTENSIONS: [&str; 3] = ["js", "mjs", "cjs"];
/// What the runtime's image brings.
const OF_THE_RUNTIME: [&str; 2] = ["@aws-sdk/", "@smithy/"];

pub(super) fn check(project: &Project, package: &Package) -> Result<(), CheckError> {
    let (module, rest) = split(&project.handler, "index.handler")?;
    // `dir/index.a.b` is `b` of what `dir/index.js` exports as `a`.
    let (folder, base) = module
        .rsplit_once('/')
        .map_or(("", module), |(f, b)| (f, b));
    let (base, name) = base
        .split_once('.')
        .map_or((base, rest), |(base, name)| (base, name));
    let stem = project.dir.join(folder).join(base);
    let files =
        EXTENSIONS.map(|extension| PathBuf::from(format!("{}.{extension}", stem.display())));
    let roots = [project.dir.as_path()];
    let Some(file) = files.iter().find(|file| file.is_file()) else {
        if stem.is_file() {
            return Ok(());
        }
        let names = files.map(|file| relative(&file, &roots));
        return Err(CheckError::NoModule {
            handler: project.handler.clone(),
            expected: names.join(", "),
        });
    };
    syntax(project, file)?;
    if let Some(source) = source(file)
        && let Some(has) = lacks(&source, name)
    {
        return Err(CheckError::NoHandler {
            file: relative(file, &roots),
            name: name.to_owned(),
            instead: match &has[..] {
                [only] => Some(format!(
                    "{}.{only}",
                    module.trim_end_matches(&format!(".{name}"))
                )),
                _ => None,
            },
            has,
        });
    }
    dependencies(project, package)
}

fn source(file: &Path) -> Option<String> {
    let small = file.metadata().ok()?.len() <= MAX_SOURCE;
    small.then(|| std::fs::read_to_string(file).ok()).flatten()
}

/// Nothing is refused if there is no Node.js here, or an older one than the function's.
fn syntax(project: &Project, file: &Path) -> Result<(), CheckError> {
    let node = |argument: &[&std::ffi::OsStr]| {
        let command = &mut Command::new("node");
        command.args(argument).stdin(Stdio::null()).output().ok()
    };
    let Some(output) = node(&["--check".as_ref(), file.as_os_str()]) else {
        return Ok(());
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let Some((line, message)) = syntax_error(&said).filter(|_| !output.status.success()) else {
        return Ok(());
    };
    let version = node(&["--version".as_ref()]).and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim_start_matches('v')
            .split('.')
            .next()?
            .parse::<u32>()
            .ok()
    });
    let wanted = project.runtime.trim_start_matches("nodejs");
    let wanted = wanted
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    if version.is_none() || version < wanted {
        return Ok(());
    }
    Err(CheckError::Syntax {
        file: relative(file, &[&project.dir]),
        line,
        message,
    })
}

/// Line and message in what Node.js writes: `FILE:LINE`, the line, a mark, `SyntaxError: …`.
fn syntax_error(said: &str) -> Option<(u64, String)> {
    let line = said
        .lines()
        .find_map(|line| line.rsplit_once(':')?.1.parse().ok());
    let message = said
        .lines()
        .find_map(|line| line.strip_prefix("SyntaxError: "))?;
    Some((line.unwrap_or(0), message.trim().to_owned()))
}

/// What a file exports, if it surely does not export `name`: a name that is nowhere in the text can
/// only come from another file or be computed.
fn lacks(source: &str, name: &str) -> Option<Vec<String>> {
    const ELSEWHERE: [&str; 8] = [
        "export *",
        "export*",
        "__exportStar",
        "Object.assign(",
        "Object.define",
        "exports[",
        "...",
        "eval(",
    ];
    let hands_on = source.contains("module.exports") && source.contains("require(");
    if words(source).any(|word| word == name)
        || hands_on
        || ELSEWHERE.iter().any(|other| source.contains(other))
    {
        return None;
    }
    let mut has: Vec<String> = Vec::new();
    let mut before = "";
    for word in words(source) {
        let declares = [
            "function", "const", "let", "var", "class", "async", "default",
        ];
        if before == "exports" || before == "export" && !declares.contains(&word) {
            has.push(word.to_owned());
        }
        // `export async function name`: the words between count as `export`.
        if !(before == "export" && declares.contains(&word)) {
            before = word;
        }
    }
    has.retain(|name| name != "exports");
    has.dedup();
    Some(has)
}

fn words(source: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    source
        .split(move |c| !part(c))
        .filter(|word| !word.is_empty())
}

#[derive(Deserialize)]
struct Description {
    #[serde(default)]
    dependencies: BTreeMap<String, serde::de::IgnoredAny>,
}

/// Each dependency that the function's own files ask for is in the package. A bundler's product asks
/// for none.
fn dependencies(project: &Project, package: &Package) -> Result<(), CheckError> {
    let text = std::fs::read(project.dir.join(DEPENDENCIES)).unwrap_or_default();
    let Ok(description) = serde_json::from_slice::<Description>(&text) else {
        return Ok(());
    };
    let missing: Vec<&String> = description
        .dependencies
        .keys()
        .filter(|name| !OF_THE_RUNTIME.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|name| {
            let folder = format!("node_modules/{name}/");
            !package.names().any(|entry| entry.starts_with(&folder))
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let own = package.names().filter(|name| {
        !name.contains("node_modules/")
            && EXTENSIONS
                .iter()
                .any(|own| name.ends_with(&format!(".{own}")))
    });
    for name in own {
        let Some(source) = source(&project.dir.join(name)) else {
            continue;
        };
        if let Some(dependency) = missing
            .iter()
            .find(|dependency| asks_for(&source, dependency))
        {
            return Err(CheckError::NoDependency {
                file: name.to_owned(),
                dependency: (*dependency).clone(),
                dir: project.dir.clone(),
                locked: project.dir.join("package-lock.json").is_file(),
            });
        }
    }
    Ok(())
}

/// `require("NAME")`, `from "NAME"`, `import "NAME"` or `import("NAME")`, or a file of it.
fn asks_for(source: &str, dependency: &str) -> bool {
    ['"', '\''].iter().any(|quote| {
        let wanted = format!("{quote}{dependency}");
        source.match_indices(&wanted).any(|(at, _)| {
            let after = source[at + wanted.len()..].chars().next();
            let before = source[..at].trim_end_matches([' ', '(']);
            (after == Some(*quote) || after == Some('/'))
                && ["require", "from", "import"]
                    .iter()
                    .any(|word| before.ends_with(word))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hint, told};
    use super::*;

    #[test]
    fn a_syntax_error_is_found_in_what_node_writes() {
        let said = "/f/index.js:3\n  const = 1;\n        ^\n\nSyntaxError: Unexpected token '='\n    at wrapSafe\n";
        assert_eq!(syntax_error(said), Some((3, "Unexpected token '='".into())));
        assert_eq!(syntax_error("node: bad option\n"), None);
    }

    #[test]
    fn a_handler_that_is_nowhere_in_the_file_is_told_with_what_is() {
        let code = "exports.main = async () => 1;\nexports.other = 2;\n";
        let text = told("index.handler", &[("index.js", code)]);
        assert_eq!(text, "index.js has no \"handler\"; it has: main, other");
        let one = [("index.mjs", "export async function main() {}\n")];
        assert_eq!(
            hint("index.handler", &one).as_deref(),
            Some("--handler index.main")
        );
        assert!(told("app.handler", &one).contains("app.js, app.mjs, app.cjs"));
        for good in [
            "exports.handler = async () => 1;",
            "export const handler = 1;",
            "module.exports = { handler: 1 };",
            "module.exports = require('./lib');",
            "export * from './lib.js';",
            "for (const n of ['a']) exports[n] = 1;",
        ] {
            assert!(lacks(good, "handler").is_none(), "{good}");
        }
    }

    #[test]
    fn handlers_in_folders_and_in_objects_are_found() {
        let nested = [("src/index.js", "exports.api = { handler() {} };")];
        assert_eq!(told("src/index.api.handler", &nested), "");
        assert_eq!(told("src/index.api", &nested), "");
    }

    /// A package without its dependencies was deployed without a word.
    #[test]
    fn a_dependency_that_is_not_installed_is_refused_if_the_code_asks_for_it() {
        let json = r#"{"dependencies": {"left-pad": "1", "@aws-sdk/client-s3": "3"}}"#;
        let asks = "const pad = require('left-pad');\nexports.handler = () => pad;";
        let missing = [("package.json", json), ("index.js", asks)];
        let text = told("index.handler", &missing);
        assert!(
            text.contains("left-pad") && text.contains("index.js"),
            "{text}"
        );
        let advice = hint("index.handler", &missing).unwrap();
        assert!(advice.ends_with("npm install --omit=dev"), "{advice}");
        let locked = [missing[0], missing[1], ("package-lock.json", "{}")];
        assert!(
            hint("index.handler", &locked)
                .unwrap()
                .ends_with("npm ci --omit=dev")
        );
        let installed = [
            missing[0],
            missing[1],
            ("node_modules/left-pad/index.js", ""),
        ];
        assert_eq!(told("index.handler", &installed), "");
        let bundled = [
            missing[0],
            ("index.js", "exports.handler = () => 'left-pad';"),
        ];
        assert_eq!(told("index.handler", &bundled), "");
    }
}
