//! Layers: several archives, stacked, become the disk behind `/opt`.
//!
//! Each archive must pass the checks for packages by itself. An entry of a later archive replaces
//! one with the same name in earlier archives. The result is then checked as one package: links may
//! lead from one layer into another but not out, and the limits apply to the sum.

use std::collections::BTreeMap;
use std::path::Path;

use super::archive::Package;
use super::tree::{Node, Tree};
use super::{FunctionError, FunctionImage, build};

/// Makes the image `out` from ZIP archives in memory; the first archive is the lowest layer.
///
/// # Errors
///
/// One of the archives, or all of them together, violate a rule, or the image can't be written.
/// `out` is then unchanged.
pub fn build_from_layers(
    layers: &[impl AsRef<[u8]>],
    out: &Path,
) -> Result<FunctionImage, FunctionError> {
    let packages = layers
        .iter()
        .map(|zip| Package::parse(zip.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut merged: BTreeMap<String, (usize, Node)> = BTreeMap::new();
    for (layer, package) in packages.iter().enumerate() {
        for (path, node) in package.tree().entries() {
            lay(&mut merged, path, (layer, node.clone()));
        }
    }
    let mut tree = Tree::default();
    for (path, (_, node)) in &merged {
        tree.add(path, node.clone())?;
    }
    let tree = tree.finish()?;
    build(out, &tree, |path| {
        let (layer, _) = merged[path];
        packages[layer].content(path)
    })
}

/// Adds one entry on top of the merged ones.
fn lay(merged: &mut BTreeMap<String, (usize, Node)>, path: &str, entry: (usize, Node)) {
    let folder = entry.1 == Node::Folder;
    if folder && matches!(merged.get(path), Some((_, Node::Folder))) {
        return;
    }
    if !folder {
        // The entry replaces a folder, so the folder's content goes too.
        let inside = format!("{path}/");
        let covered: Vec<String> = merged
            .range(inside.clone()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&inside))
            .cloned()
            .collect();
        for path in covered {
            merged.remove(&path);
        }
    }
    merged.insert(path.to_owned(), entry);
}

#[cfg(test)]
mod tests {
    use super::super::craft::{Crafted, Entry};
    use super::super::{MAX_UNZIPPED_BYTES, build_from_zip};
    use super::*;

    fn same(layers: &[Vec<u8>], as_one: Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let merged = build_from_layers(layers, &dir.path().join("layers")).unwrap();
        let one = build_from_zip(&as_one, &dir.path().join("one")).unwrap();
        assert_eq!(merged.sha256, one.sha256);
    }

    #[test]
    fn a_later_layer_takes_the_place_of_what_an_earlier_one_has_under_the_same_name() {
        let below = Crafted::of([
            Entry::file("lib/a", b"below"),
            Entry::file("lib/b", b"below"),
            Entry::file("was-folder/x", b"below"),
            Entry::file("was-file", b"below"),
        ]);
        let above = Crafted::of([
            Entry::file("lib/b", b"above"),
            Entry::file("was-folder", b"above"),
            Entry::file("was-file/y", b"above"),
        ]);
        let expected = Crafted::of([
            Entry::file("lib/a", b"below"),
            Entry::file("lib/b", b"above"),
            Entry::file("was-folder", b"above"),
            Entry::file("was-file/y", b"above"),
        ]);
        same(&[below.bytes(), above.bytes()], expected.bytes());
    }

    #[test]
    fn one_layer_is_as_it_was() {
        let layer = || Crafted::of([Entry::file("python/m.py", b"x = 1\n")]).bytes();
        same(&[layer()], layer());
    }

    #[test]
    fn a_name_that_only_begins_the_same_is_not_covered() {
        let below = Crafted::of([Entry::file("lib-2/x", b"1"), Entry::file("lib.d/x", b"1")]);
        let above = Crafted::of([Entry::file("lib", b"2")]);
        let expected = Crafted::of([
            Entry::file("lib", b"2"),
            Entry::file("lib-2/x", b"1"),
            Entry::file("lib.d/x", b"1"),
        ]);
        same(&[below.bytes(), above.bytes()], expected.bytes());
    }

    #[test]
    fn links_that_lead_out_by_way_of_another_layer_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let below = Crafted::of([Entry::link("d/e/up", "../.."), Entry::file("d/f", b"x")]);
        let above = Crafted::of([Entry::link("d/e/g", "up/..")]);
        let out = dir.path().join("layers");
        let layers = [below.bytes(), above.bytes()];
        assert!(matches!(
            build_from_layers(&layers, &out),
            Err(FunctionError::BadLink { .. })
        ));
        assert!(!out.exists());
    }

    #[test]
    fn what_they_unpack_to_counts_together() {
        let dir = tempfile::tempdir().unwrap();
        let half = vec![0; usize::try_from(MAX_UNZIPPED_BYTES / 2).unwrap()];
        let layer = |name: &str| Crafted::of([Entry::file(name, &half)]).bytes();
        let layers = [
            layer("a"),
            layer("b"),
            Crafted::of([Entry::file("c", b"x")]).bytes(),
        ];
        assert!(matches!(
            build_from_layers(&layers, &dir.path().join("layers")),
            Err(FunctionError::UnzippedTooLarge { .. })
        ));
    }
}
