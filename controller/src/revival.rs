//! At a start: finds the artefacts of earlier processes that can still be used, and deletes all others.

use std::collections::HashSet;
use std::sync::Arc;

use crate::data_dir::{DataDir, DataDirError, Unreferenced};
use crate::deploy::{Builder, Source};
use crate::function::{Deployed, Made, Version, VersionContent, VersionId};
use crate::registry::{Contents, Continuity, Database, Function, Published, Stored};

/// Deletes files to which no record refers, if the registry is known to be the one that they belong to.
pub(crate) fn sweep(
    data: &DataDir,
    database: &Database,
    contents: &Contents,
) -> Result<(), DataDirError> {
    let unreferenced = match database.continuity() {
        _ if database.is_damaged() => Unreferenced::Keep,
        Continuity::Proven => Unreferenced::Delete,
        Continuity::Unproven => Unreferenced::Move,
    };
    let mut keys = HashSet::new();
    for Stored { record, versions } in &contents.functions {
        keys.extend(record.pending_deploy.as_deref());
        keys.extend(record.deployed.as_ref().map(|deployed| &*deployed.made.key));
        for version in versions {
            keys.extend(version.pending_deploy.as_deref());
            keys.extend(version.made.as_ref().map(|made| &*made.key));
        }
    }
    let names = contents.functions.iter().map(|f| f.record.name.as_str());
    data.sweep(unreferenced, &keys, &contents.packages(), &names.collect())
}

/// A stored function, with the artefacts of its versions that can still be used.
pub(crate) fn revive(builder: &Builder, stored: Stored) -> Function {
    let mut function = Function::new(stored.record);
    let record = &function.record;
    if let Some(Deployed {
        config, code, made, ..
    }) = &record.deployed
    {
        let source = Source {
            incarnation: &function.incarnation,
            name: &record.name,
            version: VersionId::Latest,
            config,
            code,
            key: &made.key,
            replaces: false,
        };
        let live = revive_version(builder, source, made, &record.revision_id);
        function.live = Some(live);
    }
    for version in stored.versions {
        let live = version.made.as_ref().map(|made| {
            let source = Source {
                incarnation: &function.incarnation,
                name: &function.record.name,
                version: VersionId::Number(version.number),
                config: &version.config,
                code: &version.code,
                key: &made.key,
                replaces: false,
            };
            revive_version(builder, source, made, &version.revision_id)
        });
        let number = version.number;
        let record = version;
        let published = Published { record, live };
        function.versions.insert(number, Arc::new(published));
    }
    function
}

fn revive_version(
    builder: &Builder,
    source: Source<'_>,
    made: &Made,
    revision: &str,
) -> Arc<Version> {
    let artefacts = builder.find(source, made);
    if artefacts.is_none() {
        tracing::warn!(
            function = %source.name,
            version = %source.version,
            "the snapshot of a function does not fit this host any more"
        );
        builder.forget(source.key);
    }
    let content = VersionContent {
        incarnation: source.incarnation.clone(),
        name: source.name.clone(),
        id: source.version,
        config: source.config.clone(),
        code: source.code.clone(),
        revision_id: revision.into(),
    };
    Version::new(content, artefacts)
}
