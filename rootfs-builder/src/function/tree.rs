//! A package's files as they will be in the image, before any is written.
//!
//! The tree has the rules that concern several entries: no name twice, no file where a folder is
//! needed, links that stay inside of the package, sums within the limits.

use std::collections::BTreeMap;

use super::{FunctionError, MAX_ENTRIES, MAX_UNZIPPED_BYTES};

/// Maximum number of links that a path may lead through; Linux has the same limit.
const MAX_LINKS_FOLLOWED: usize = 40;
/// Maximum number of path components that are looked at to check all links of a package. Real
/// packages need thousands; a hostile one could need billions.
const MAX_LINK_STEPS: usize = 4_000_000;
/// Maximum length of a link's target (`PATH_MAX` without the NUL).
pub(super) const MAX_TARGET_BYTES: u64 = 4095;

/// An entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    File { size: u64, executable: bool },
    Link { target: String },
}

/// The entries by path. A folder comes before its content.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
    bytes: u64,
}

impl Tree {
    /// Adds an entry and its parent folders.
    pub(super) fn add(&mut self, path: &str, node: Node) -> Result<(), FunctionError> {
        let duplicate = || FunctionError::Duplicate {
            name: path.to_owned(),
        };
        if path.is_empty() {
            // The root can only be a folder.
            return if node == Node::Folder {
                Ok(())
            } else {
                Err(duplicate())
            };
        }
        for (end, _) in path.match_indices('/') {
            match self.nodes.get(&path[..end]) {
                Some(Node::Folder) => {}
                Some(_) => return Err(duplicate()),
                None => {
                    self.nodes.insert(path[..end].to_owned(), Node::Folder);
                }
            }
        }
        let size = match &node {
            Node::Folder => 0,
            Node::File { size, .. } => *size,
            Node::Link { target } => target.len() as u64,
        };
        if size > 0 {
            self.bytes = self.bytes.saturating_add(size);
            if self.bytes > MAX_UNZIPPED_BYTES {
                let limit = MAX_UNZIPPED_BYTES;
                return Err(FunctionError::UnzippedTooLarge {
                    size: self.bytes,
                    limit,
                });
            }
        }
        match self.nodes.get(path) {
            // Many programs list a folder more than once.
            Some(Node::Folder) if node == Node::Folder => {}
            Some(_) => return Err(duplicate()),
            None => {
                self.nodes.insert(path.to_owned(), node);
            }
        }
        if self.nodes.len() > MAX_ENTRIES {
            let (count, limit) = (self.nodes.len(), MAX_ENTRIES);
            return Err(FunctionError::TooManyEntries { count, limit });
        }
        Ok(())
    }

    /// Makes the checks that need all entries.
    pub(super) fn finish(self) -> Result<Self, FunctionError> {
        if self.nodes.is_empty() {
            return Err(FunctionError::Empty);
        }
        let mut steps = MAX_LINK_STEPS;
        for (path, node) in &self.nodes {
            if let Node::Link { target } = node {
                self.check_link(path, target, &mut steps).map_err(|why| {
                    FunctionError::BadLink {
                        name: path.clone(),
                        target: target.clone(),
                        why,
                    }
                })?;
            }
        }
        Ok(self)
    }

    /// Entries in the order of their names.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Sum of all files in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Follows a link as the kernel will, through other links too, because a link that is harmless
    /// by itself may leave the package through another one.
    fn check_link(&self, path: &str, target: &str, steps: &mut usize) -> Result<(), &'static str> {
        let mut place: Vec<&str> = path.split('/').collect();
        place.pop();
        let mut ahead: Vec<&str> = Vec::new();
        let mut next = target;
        let mut followed = 0;
        loop {
            if next.is_empty() {
                return Err("is empty");
            }
            if next.contains('\0') {
                return Err("contains NUL");
            }
            if next.starts_with('/') {
                return Err("leads to an absolute path");
            }
            ahead.extend(next.split('/').rev());
            next = loop {
                let Some(part) = ahead.pop() else {
                    return Ok(());
                };
                // A step costs more at a greater depth.
                *steps = steps
                    .checked_sub(1 + place.len())
                    .ok_or("is one of too many long links in this package")?;
                match part {
                    "" | "." => {}
                    ".." => {
                        if place.pop().is_none() {
                            return Err("leads out of the package");
                        }
                    }
                    part => {
                        place.push(part);
                        if let Some(Node::Link { target }) = self.nodes.get(&place.join("/")) {
                            place.pop();
                            break target;
                        }
                    }
                }
            };
            followed += 1;
            if followed > MAX_LINKS_FOLLOWED {
                return Err("leads in a circle, or through too many links");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Node {
        Node::File {
            size: 1,
            executable: false,
        }
    }

    fn link(target: &str) -> Node {
        Node::Link {
            target: target.to_owned(),
        }
    }

    fn tree(entries: &[(&str, Node)]) -> Result<Tree, FunctionError> {
        let mut tree = Tree::default();
        for (path, node) in entries {
            tree.add(path, node.clone())?;
        }
        tree.finish()
    }

    #[test]
    fn folders_above_an_entry_are_made_and_may_be_named_again() {
        let tree = tree(&[
            ("a/b/c", file()),
            ("a", Node::Folder),
            ("a/b", Node::Folder),
        ])
        .unwrap();
        let paths: Vec<_> = tree.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/c"]);
    }

    #[test]
    fn a_name_is_taken_once() {
        for entries in [
            [("a", file()), ("a", file())],
            [("a", file()), ("a", Node::Folder)],
            [("a", Node::Folder), ("a", file())],
            [("a", file()), ("a/b", file())],
            [("a/b", file()), ("a", file())],
            [("a", link("b")), ("a/b", file())],
            [("a", link("b")), ("a", link("b"))],
        ] {
            let error = tree(&entries).unwrap_err();
            assert!(
                matches!(error, FunctionError::Duplicate { .. }),
                "{entries:?}: {error}"
            );
        }
    }

    #[test]
    fn names_that_differ_in_case_are_different() {
        tree(&[("A", file()), ("a", file())]).unwrap();
    }

    #[test]
    fn links_inside_the_package_are_kept() {
        tree(&[
            ("lib/v1/x", file()),
            ("lib/current", link("v1")),
            ("top", link("lib/current/x")),
            ("lib/v1/up", link("../../lib")),
            ("dangling", link("not/there")),
        ])
        .unwrap();
    }

    #[test]
    fn links_out_of_the_package_are_refused() {
        for (target, expected) in [
            ("/etc/passwd", "leads to an absolute path"),
            ("..", "leads out of the package"),
            ("a/../../x", "leads out of the package"),
            ("", "is empty"),
            ("a\0b", "contains NUL"),
        ] {
            match tree(&[("l", link(target))]).unwrap_err() {
                FunctionError::BadLink { why, .. } => assert_eq!(why, expected),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_link_that_leaves_by_way_of_another_is_refused() {
        let error = tree(&[
            ("p/q/file", file()),
            ("p/q/root", link("../..")),
            ("sly", link("p/q/root/..")),
        ])
        .unwrap_err();
        assert!(matches!(error, FunctionError::BadLink { name, .. } if name == "sly"));
    }

    #[test]
    fn links_in_a_circle_are_refused() {
        let error = tree(&[("a", link("b")), ("b", link("a"))]).unwrap_err();
        assert!(matches!(error, FunctionError::BadLink { .. }));
    }

    #[test]
    fn checking_many_long_links_is_bounded() {
        let mut tree = Tree::default();
        for i in 0..20_000 {
            tree.add(&format!("l{i}"), link(&"a/../".repeat(800)))
                .unwrap();
        }
        assert!(matches!(
            tree.finish().unwrap_err(),
            FunctionError::BadLink { .. }
        ));
    }

    #[test]
    fn sums_are_limited() {
        let half = Node::File {
            size: MAX_UNZIPPED_BYTES / 2,
            executable: false,
        };
        tree(&[("a", half.clone()), ("b", half.clone())]).unwrap();
        let error = tree(&[("a", half.clone()), ("b", half), ("c", file())]).unwrap_err();
        assert!(matches!(
            error,
            FunctionError::UnzippedTooLarge {
                size: 262_144_001,
                ..
            }
        ));
        let huge = Node::File {
            size: u64::MAX,
            executable: false,
        };
        let error = tree(&[("a", huge.clone()), ("b", huge)]).unwrap_err();
        assert!(matches!(error, FunctionError::UnzippedTooLarge { .. }));
    }

    #[test]
    fn an_empty_package_is_refused() {
        assert!(matches!(tree(&[]).unwrap_err(), FunctionError::Empty));
        assert!(matches!(
            tree(&[("", Node::Folder)]).unwrap_err(),
            FunctionError::Empty
        ));
    }
}
