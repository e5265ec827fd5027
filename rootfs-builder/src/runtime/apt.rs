//! The host's apt configuration: where packages come from, and how to reach them. A host behind a
//! mirror or a proxy thus needs no second configuration.

use std::fs;
use std::path::Path;

use super::RuntimeError;
use crate::command::Tool;

const SOURCES_LIST: &str = "/etc/apt/sources.list";
const SOURCES_FOLDER: &str = "/etc/apt/sources.list.d";
/// The options that concern fetching. The others (hooks, paths) must not affect the image.
const FETCHING: &[&str] = &[
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-Date",
    "Acquire::Check-Valid-Until",
    "Acquire::ForceIPv4",
    "Acquire::ForceIPv6",
    "Acquire::Retries",
];

/// The host's options for fetching, each as `Name "value"`.
pub(super) fn options() -> Result<Vec<String>, RuntimeError> {
    let dump = Tool::new("apt-config", "apt")
        .args(["dump", "--format", "%f \"%v\"\n"])
        .output()?;
    Ok(fetching(&dump))
}

fn fetching(dump: &str) -> Vec<String> {
    dump.lines()
        .filter(|line| FETCHING.iter().any(|name| line.starts_with(name)))
        .filter(|line| !line.ends_with("\"\""))
        .map(str::to_owned)
        .collect()
}

/// The host's package sources of `suite`, in one-line format; empty on another release.
pub(super) fn sources(suite: &str) -> Result<String, RuntimeError> {
    let mut text = String::new();
    let mut take = |path: &Path| -> Result<(), RuntimeError> {
        let content = fs::read_to_string(path).map_err(RuntimeError::io("read", path))?;
        let stanzas = path
            .extension()
            .is_some_and(|extension| extension == "sources");
        text += &if stanzas {
            from_stanzas(&content, suite)
        } else {
            from_lines(&content, suite)
        };
        Ok(())
    };
    if Path::new(SOURCES_LIST).is_file() {
        take(Path::new(SOURCES_LIST))?;
    }
    let folder = Path::new(SOURCES_FOLDER);
    if folder.is_dir() {
        let io = |error| RuntimeError::io("read", folder)(error);
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(io)? {
            paths.push(entry.map_err(io)?.path());
        }
        paths.sort();
        for path in paths {
            if path
                .extension()
                .is_some_and(|extension| extension == "list" || extension == "sources")
            {
                take(&path)?;
            }
        }
    }
    Ok(text)
}

/// Whether this is one of the distribution's own suites of the release.
fn belongs(name: &str, suite: &str) -> bool {
    name.strip_prefix(suite)
        .is_some_and(|rest| matches!(rest, "" | "-updates" | "-security"))
}

/// Parses `deb [options] uri suite component…` lines.
fn from_lines(content: &str, suite: &str) -> String {
    let mut text = String::new();
    for line in content.lines().map(str::trim) {
        let Some(rest) = line.strip_prefix("deb ") else {
            continue;
        };
        let rest = match rest.trim_start().strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        let mut words = rest.split_whitespace().skip(1);
        if words.next().is_some_and(|name| belongs(name, suite)) && words.any(|word| word == "main")
        {
            text += line;
            text.push('\n');
        }
    }
    text
}

/// Parses stanzas of `Name: value` fields.
fn from_stanzas(content: &str, suite: &str) -> String {
    let content: String = content
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    let mut text = String::new();
    for stanza in content.split("\n\n") {
        let field = |name: &str| {
            let line = stanza.lines().find_map(|line| {
                let (field, value) = line.split_once(':')?;
                field.eq_ignore_ascii_case(name).then_some(value.trim())
            });
            line.unwrap_or_default()
        };
        let words = |name: &str| field(name).split_whitespace().collect::<Vec<_>>();
        if !words("Types").contains(&"deb")
            || !words("Components").contains(&"main")
            || field("Enabled").eq_ignore_ascii_case("no")
        {
            continue;
        }
        // A key inside of the stanza can't be expressed on one line.
        let signed_by = field("Signed-By");
        let options = if signed_by.starts_with('/') {
            format!("[signed-by={signed_by}] ")
        } else {
            String::new()
        };
        for uri in words("URIs") {
            for name in words("Suites") {
                if belongs(name, suite) {
                    text += &format!("deb {options}{uri} {name} main\n");
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_release_s_own_suites_are_taken() {
        let content = "\
# comment
deb http://mirror.invalid/debian bookworm main contrib
deb [signed-by=/k.gpg arch=amd64] http://mirror.invalid/security bookworm-security main
deb http://third.invalid bookworm stable
deb http://third.invalid bookworm-pgdg main
deb http://mirror.invalid/debian trixie main
deb-src http://mirror.invalid/debian bookworm main
";
        assert_eq!(
            from_lines(content, "bookworm"),
            "deb http://mirror.invalid/debian bookworm main contrib\n\
             deb [signed-by=/k.gpg arch=amd64] http://mirror.invalid/security bookworm-security main\n"
        );
    }

    #[test]
    fn stanzas_become_lines() {
        let content = "\
Types: deb
# where from
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://third.invalid
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://off.invalid
Suites: bookworm
Components: main
";
        let by = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        assert_eq!(
            from_stanzas(content, "bookworm"),
            format!(
                "deb {by} http://mirror.invalid/debian bookworm main\n\
                 deb {by} http://mirror.invalid/debian bookworm-updates main\n"
            )
        );
    }

    #[test]
    fn only_options_about_fetching_are_taken() {
        let dump = "Acquire::http::Proxy \"http://proxy.invalid:3128\"\n\
                    Acquire::Retries \"3\"\nAcquire::http::Pipeline-Depth \"\"\n\
                    DPkg::Post-Invoke:: \"rm -rf /\"\nAcquire::cdrom::AutoDetect \"true\"\n";
        assert_eq!(
            fetching(dump),
            [
                "Acquire::http::Proxy \"http://proxy.invalid:3128\"",
                "Acquire::Retries \"3\""
            ]
        );
    }
}
