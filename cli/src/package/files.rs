//! Which files of a folder belong to the function. `hearth dev` watches exactly these.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::Entry;
use crate::project::{PROJECT_FILE, Project};

/// Folders that never belong to a function, at any depth: version control, caches, environments.
const NEVER_FOLDERS: &[&str] = &[
    ".git",
    ".hg",
    ".svn",
    ".venv",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
];
/// Files that never belong to a function, at any depth. What begins with [`SECRETS`] doesn't either: it
/// would end in packages, images, snapshots and download links.
const NEVER_FILES: &[&str] = &[".DS_Store"];
/// Files of environment variables.
const SECRETS: &str = ".env";
/// The folder of a project's own description and of Cargo's products; at the top only.
const NEVER_AT_TOP: &[&str] = &[PROJECT_FILE, "target"];
/// Most files in a package. A ZIP without extensions counts them with 16 bits.
const MAX_FILES: usize = 65_535;

/// A folder and what of it counts.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    root: PathBuf,
    exclude: Vec<PathBuf>,
    everything: bool,
}

/// Why a folder's files can't be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    /// Reading the folder.
    #[error("{path}: {source}")]
    Walk {
        /// Where.
        path: PathBuf,
        /// The system's error, or a symbolic link to a folder above itself.
        source: walkdir::Error,
    },
    /// A symbolic link out of the folder.
    #[error(
        "{path} is a symbolic link to {target}, outside the function's folder; copy the file in, or \
         leave it out with exclude = […] in {PROJECT_FILE}"
    )]
    LinkOutside {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A device, socket or pipe.
    #[error("{0} is neither a file nor a folder, and can't be part of a package")]
    Special(PathBuf),
    /// Not UTF-8.
    #[error("{0:?}: a package's file names are UTF-8, this one is not")]
    Name(PathBuf),
    /// More than a ZIP holds.
    #[error("{0} holds more than {MAX_FILES} files")]
    TooMany(PathBuf),
}

impl Selection {
    /// What of a project's folder goes into its package.
    pub(crate) fn of(project: &Project) -> Self {
        Self {
            root: project.dir.clone(),
            exclude: project.exclude.clone(),
            everything: false,
        }
    }

    /// All of a folder that was made for the purpose.
    pub(crate) fn everything(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            exclude: Vec::new(),
            everything: true,
        }
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a change of `path`, an absolute one, can change the package or how it is deployed.
    pub(crate) fn concerns(&self, path: &Path) -> bool {
        let Ok(relative) = path.strip_prefix(&self.root) else {
            return false;
        };
        if relative == Path::new(PROJECT_FILE) {
            return true;
        }
        let mut partial = PathBuf::new();
        relative.components().all(|part| {
            partial.push(part);
            self.admits(&partial)
        })
    }

    /// Whether `relative` goes in, given that the folder it is in does.
    fn admits(&self, relative: &Path) -> bool {
        if self.everything {
            return true;
        }
        let name = relative
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let at_top = relative.components().count() == 1;
        !(NEVER_FOLDERS.contains(&name)
            || NEVER_FILES.contains(&name)
            || is_secret(name)
            || name.ends_with(".pyc")
            || at_top && NEVER_AT_TOP.contains(&name)
            || self
                .exclude
                .iter()
                .any(|pattern| excludes(pattern, relative)))
    }

    /// What its owner may not have meant: patterns that match nothing, and secrets that stay out.
    pub(super) fn remarks(&self) -> Vec<String> {
        let all = Self {
            exclude: Vec::new(),
            ..self.clone()
        };
        let paths: Vec<PathBuf> = all
            .walk()
            .flatten()
            .filter_map(|found| {
                found
                    .path()
                    .strip_prefix(&self.root)
                    .ok()
                    .map(Path::to_owned)
            })
            .collect();
        let names_one = |pattern: &&PathBuf| paths.iter().any(|path| excludes(pattern, path));
        // What never goes in may be named all the same.
        let is_there = |pattern: &&PathBuf| self.root.join(pattern).symlink_metadata().is_ok();
        let mut remarks: Vec<String> = self
            .exclude
            .iter()
            .filter(|pattern| !names_one(pattern) && !is_there(pattern))
            .map(|pattern| {
                format!(
                    "exclude {:?} matches nothing",
                    pattern.display().to_string()
                )
            })
            .collect();
        let entries = std::fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten();
        let mut secrets: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_secret(name))
            .collect();
        secrets.sort();
        if !secrets.is_empty() {
            let names = secrets.join(", ");
            remarks.push(format!(
                "{names} stays out of the package; --env sets variables"
            ));
        }
        remarks
    }

    /// Every path that goes in, with what it is. Symbolic links are followed.
    pub(crate) fn walk(&self) -> impl Iterator<Item = Result<DirEntry, walkdir::Error>> + '_ {
        WalkDir::new(&self.root)
            .follow_links(true)
            .into_iter()
            .filter_entry(|entry| {
                let relative = entry
                    .path()
                    .strip_prefix(&self.root)
                    .unwrap_or(entry.path());
                entry.depth() == 0 || self.admits(relative)
            })
    }

    /// The files that go in, in no particular order.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, FilesError> {
        let mut entries = Vec::new();
        for found in self.walk() {
            let found = found.map_err(|source| FilesError::Walk {
                path: self.root.clone(),
                source,
            })?;
            self.check_link(&found)?;
            if found.file_type().is_dir() {
                continue;
            }
            if !found.file_type().is_file() {
                return Err(FilesError::Special(found.path().to_owned()));
            }
            if entries.len() == MAX_FILES {
                return Err(FilesError::TooMany(self.root.clone()));
            }
            entries.push(self.entry(&found)?);
        }
        Ok(entries)
    }

    fn entry(&self, found: &DirEntry) -> Result<Entry, FilesError> {
        let path = found.path();
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        let name = relative
            .to_str()
            .ok_or_else(|| FilesError::Name(path.to_owned()))?;
        let metadata = found.metadata().map_err(|source| FilesError::Walk {
            path: path.to_owned(),
            source,
        })?;
        Ok(Entry {
            name: name.to_owned(),
            source: path.to_owned(),
            executable: metadata.permissions().mode() & 0o111 != 0,
        })
    }

    /// A link to a target inside the folder is followed. A link out of the folder is refused: it would
    /// add files to the package that are not part of the function.
    fn check_link(&self, found: &DirEntry) -> Result<(), FilesError> {
        if !found.path_is_symlink() || found.depth() == 0 {
            return Ok(());
        }
        let outside = |target| FilesError::LinkOutside {
            path: found.path().to_owned(),
            target,
        };
        match found.path().canonicalize() {
            Ok(target) if target.starts_with(&self.root) => Ok(()),
            Ok(target) => Err(outside(target)),
            Err(_) => Err(outside(found.path().read_link().unwrap_or_default())),
        }
    }
}

fn is_secret(name: &str) -> bool {
    let rest = name.strip_prefix(SECRETS);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a pattern of `exclude` names `relative`: a path by itself, or one with `*` (any text without
/// `/`), `**` (any folders) and `?`. Without `/` such a pattern is for names at any depth.
fn excludes(pattern: &Path, relative: &Path) -> bool {
    if pattern == relative {
        return true;
    }
    let (Some(pattern), Some(path)) = (pattern.to_str(), relative.to_str()) else {
        return false;
    };
    if !pattern.contains(['*', '?']) {
        return false;
    }
    let path: Vec<&str> = path.split('/').collect();
    if !pattern.contains('/') {
        return path
            .last()
            .is_some_and(|name| is_like(pattern.as_bytes(), name.as_bytes()));
    }
    let pattern: Vec<&str> = pattern.split('/').collect();
    are_like(&pattern, &path)
}

fn are_like(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**", rest @ ..], _) => (0..=path.len()).any(|skipped| are_like(rest, &path[skipped..])),
        ([first, pattern @ ..], [name, path @ ..]) => {
            is_like(first.as_bytes(), name.as_bytes()) && are_like(pattern, path)
        }
        _ => false,
    }
}

/// One name. Time grows with the product of the lengths: of several `*` only the last is tried again.
fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut star = None;
    while place < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(c) if *c == b'?' || *c == name[place] => {
                at += 1;
                place += 1;
            }
            _ => {
                let Some((after, begun)) = star else {
                    return false;
                };
                star = Some((after, begun + 1));
                (at, place) = (after + 1, begun + 1);
            }
        }
    }
    pattern[at..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::Builder::new().prefix("fn").tempdir().unwrap();
        for name in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        dir
    }

    fn select(dir: &tempfile::TempDir, exclude: &[&str]) -> Selection {
        Selection {
            root: dir.path().canonicalize().unwrap(),
            exclude: exclude.iter().map(PathBuf::from).collect(),
            everything: false,
        }
    }

    fn names(selection: &Selection) -> Vec<String> {
        let mut names: Vec<String> = selection
            .entries()
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        names.sort();
        names
    }

    const FILES: &[&str] = &[
        "app.py",
        "lib/util.py",
        "lib/target/x",
        "docs/a.md",
        "target/debug/x",
        ".git/HEAD",
        "lib/__pycache__/util.pyc",
        "old.pyc",
        "hearth.toml",
        "lib/hearth.toml",
        ".config",
    ];

    #[test]
    fn what_never_belongs_to_a_function_stays_out() {
        let dir = folder(FILES);
        let kept = names(&select(&dir, &["docs"]));
        assert_eq!(
            kept,
            [
                ".config",
                "app.py",
                "lib/hearth.toml",
                "lib/target/x",
                "lib/util.py"
            ]
        );
    }

    /// `.env` went into packages, images and snapshots, and `*.log` excluded nothing.
    #[test]
    fn secrets_stay_out_and_patterns_exclude_what_they_match() {
        let files = [
            "app.py",
            ".env",
            ".env.local",
            "sub/.env",
            ".DS_Store",
            "a.log",
            "sub/b.log",
            "docs/x/y.md",
            ".environment",
            "sub/keep.txt",
        ];
        let dir = folder(&files);
        let kept = names(&select(&dir, &["*.log", "docs/**/*.md"]));
        assert_eq!(kept, [".environment", "app.py", "sub/keep.txt"]);
        let kept = names(&select(&dir, &["sub/*"]));
        assert_eq!(kept, [".environment", "a.log", "app.py", "docs/x/y.md"]);
        let remarks = select(&dir, &["*.tmp", "*.log", "docs"]).remarks();
        assert_eq!(
            remarks,
            [
                "exclude \"*.tmp\" matches nothing",
                ".env, .env.local stays out of the package; --env sets variables",
            ]
        );
    }

    #[test]
    fn a_star_stands_for_any_text_of_a_name() {
        for (pattern, name, like) in [
            ("*", "anything", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("*.l*g", "x.y.log", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b", "abc", false),
            ("", "a", false),
        ] {
            assert_eq!(
                is_like(pattern.as_bytes(), name.as_bytes()),
                like,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn a_change_concerns_the_package_exactly_if_the_file_goes_in_or_describes_it() {
        let dir = folder(FILES);
        let selection = select(&dir, &["docs"]);
        for file in FILES {
            let path = selection.root.join(file);
            let goes_in = names(&selection).iter().any(|name| name == file);
            assert_eq!(
                selection.concerns(&path),
                goes_in || *file == "hearth.toml",
                "{file}"
            );
        }
        assert!(!selection.concerns(Path::new("/elsewhere/app.py")));
    }

    #[test]
    fn a_link_inside_is_followed_and_one_that_leads_out_is_refused() {
        let dir = folder(&["app.py"]);
        std::os::unix::fs::symlink("app.py", dir.path().join("alias.py")).unwrap();
        let selection = select(&dir, &[]);
        assert_eq!(names(&selection), ["alias.py", "app.py"]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("users")).unwrap();
        let error = selection.entries().unwrap_err();
        assert!(matches!(error, FilesError::LinkOutside { .. }), "{error}");
        assert!(names(&select(&dir, &["users"])).len() == 2);
    }

    #[test]
    fn a_link_that_goes_in_circles_is_an_error() {
        let dir = folder(&["lib/a.py"]);
        std::os::unix::fs::symlink("..", dir.path().join("lib/up")).unwrap();
        assert!(matches!(
            select(&dir, &[]).entries(),
            Err(FilesError::Walk { .. })
        ));
    }

    #[test]
    fn a_socket_is_no_part_of_a_package() {
        let dir = folder(&["app.py"]);
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(matches!(
            select(&dir, &[]).entries(),
            Err(FilesError::Special(_))
        ));
    }
}
