//! Tests of what stays on disk for a rollback.

use std::path::Path;

use super::*;
use crate::function::{ArtefactFiles, Environment, VersionContent, VersionId, artefacts_in};
use crate::registry::test_record;

/// A `$LATEST` of function `f` that owns new artefacts with this fingerprint.
fn version(folder: &Path, f: &Incarnation, fingerprint: &str, secret: &str) -> Arc<Version> {
    // Other functions may have artefacts with this fingerprint.
    let place = tempfile::tempdir_in(folder).unwrap().keep();
    let artefacts = artefacts_in(&place, "key", fingerprint);
    artefacts.own();
    of_artefacts(f, secret, artefacts)
}

fn of_artefacts(f: &Incarnation, secret: &str, artefacts: Arc<Artefacts>) -> Arc<Version> {
    let record = test_record("f");
    let mut config = record.config;
    let variables = [("SECRET".to_owned(), secret.to_owned())];
    config.environment = Some(Environment(variables.into()));
    let content = VersionContent {
        incarnation: f.clone(),
        name: record.name,
        id: VersionId::Latest,
        config,
        code: record.code,
        revision_id: record.revision_id,
    };
    Version::new(content, Some(artefacts))
}

/// Replaces one version by the other as a deploy does. Returns the place of the former's files.
fn replace(kept: &KeptSnapshots, former: Arc<Version>, now: &Version) -> ArtefactFiles {
    let files = former.artefacts().unwrap().files.clone();
    kept.replaced(&former, now);
    former.retire();
    files
}

fn fingerprints(deployed: &str) -> Fingerprints {
    Fingerprints {
        booted: "b".into(),
        deployed: deployed.into(),
    }
}

/// The space of one test's artefacts.
fn one(folder: &Path) -> u64 {
    let bytes = artefacts_in(folder, "measured", "").disk_bytes();
    assert!(bytes > 0);
    bytes
}

#[test]
fn a_replaced_snapshot_is_there_for_one_deploy_with_its_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, f) = (KeptSnapshots::new(u64::MAX), Incarnation::default());
    let (first, second) = (
        version(dir.path(), &f, "1", "s"),
        version(dir.path(), &f, "2", "s"),
    );
    let files = replace(&kept, first, &second);
    assert!(files.folder.exists() && kept.bytes() > 0);
    assert!(kept.take(&f, &fingerprints("2")).is_none());
    let taken = kept.take(&f, &fingerprints("1")).unwrap();
    assert!(taken.sealed().is_verified());
    assert!(kept.take(&f, &fingerprints("1")).is_none());
    assert_eq!(kept.bytes(), 0);
    // The deploy that took it was given up.
    drop(taken);
    assert!(!files.folder.exists());
}

#[test]
fn a_snapshot_that_the_next_deploy_reuses_is_not_kept_and_outlives_the_replaced_version() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, f) = (KeptSnapshots::new(u64::MAX), Incarnation::default());
    let first = version(dir.path(), &f, "1", "s");
    let shared = first.artefacts().unwrap();
    shared.own();
    let second = of_artefacts(&f, "s", shared);
    let files = replace(&kept, first, &second);
    assert_eq!(kept.bytes(), 0);
    assert!(second.artefacts().unwrap().complete());
    second.retire();
    drop(second);
    assert!(!files.folder.exists());
}

#[test]
fn the_snapshot_that_was_replaced_first_is_deleted_when_space_is_short() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, f) = (
        KeptSnapshots::new(2 * one(dir.path())),
        Incarnation::default(),
    );
    let new = |fingerprint| version(dir.path(), &f, fingerprint, "s");
    let mut now = new("0");
    let mut replaced = Vec::new();
    for fingerprint in ["1", "2", "3"] {
        let next = new(fingerprint);
        replaced.push(replace(&kept, now, &next));
        now = next;
    }
    let exist: Vec<bool> = replaced.iter().map(|files| files.folder.exists()).collect();
    assert_eq!(exist, [false, true, true]);
    let none = KeptSnapshots::new(0);
    let files = replace(&none, now, &new("4"));
    assert!(!files.folder.exists() && !files.code_image.exists());
}

#[test]
fn no_snapshot_with_replaced_environment_variables_or_of_a_deleted_function_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let kept = KeptSnapshots::new(u64::MAX);
    let (f, g) = (Incarnation::default(), Incarnation::default());
    let new = |f, fingerprint, secret| version(dir.path(), f, fingerprint, secret);
    let other = replace(&kept, new(&g, "1", "s"), &new(&g, "2", "s"));
    let second = new(&f, "2", "leaked");
    let first = replace(&kept, new(&f, "1", "leaked"), &second);
    assert!(first.folder.exists());
    let second = replace(&kept, second, &new(&f, "3", "rotated"));
    assert!(!first.folder.exists() && !second.folder.exists());
    assert!(other.folder.exists());
    // `g` may be another function of the same name, created when `f` was deleted, or the other way round.
    assert!(kept.take(&f, &fingerprints("1")).is_none());
    kept.forget(&g);
    assert!(!other.folder.exists());
    assert_eq!(kept.bytes(), 0);
}

#[test]
fn an_unusable_snapshot_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, f) = (KeptSnapshots::new(u64::MAX), Incarnation::default());
    let first = version(dir.path(), &f, "1", "s");
    first.artefacts().unwrap().mark_unusable();
    let files = replace(&kept, first, &version(dir.path(), &f, "2", "s"));
    assert!(!files.folder.exists());
    // A restore of an instance that was still starting may show it later.
    let first = version(dir.path(), &f, "3", "s");
    let late = first.artefacts().unwrap();
    replace(&kept, first, &version(dir.path(), &f, "4", "s"));
    late.mark_unusable();
    assert!(kept.take(&f, &fingerprints("3")).is_none());
}
