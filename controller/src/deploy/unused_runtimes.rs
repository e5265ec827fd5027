//! Removes runtime snapshots that no function uses. Without this, each memory size and each version of the
//! sandbox would leave one for ever.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::SystemTime;
use std::{fs, io};

use super::builder::Builder;
use super::runtime_snapshot::runtime_key;
use crate::function::{FunctionConfig, Runtime, StartsFrom};
use crate::registry::{Catalog, Function};

/// Number of unused ones that stay while the controller runs, so that a function that is deleted and
/// created again need not boot its runtime again.
pub(crate) const KEPT_UNUSED: usize = 4;

impl Builder {
    /// Removes the runtime snapshots that no function in the catalog can start from, except the `kept`
    /// newest. No deploy may begin meanwhile: the caller holds the catalog's lock, or none has begun.
    pub(crate) fn remove_unused_runtimes(&self, catalog: &Catalog, kept: usize) {
        let (functions, _) = catalog.list(None, usize::MAX);
        let started_from = functions
            .iter()
            .flat_map(|function| runtimes_in_use(function));
        let used: HashSet<String> = functions
            .iter()
            .flat_map(|function| configs(function))
            .map(|config| (config.runtime, config.memory_mib))
            .collect::<HashSet<(Runtime, u32)>>()
            .into_iter()
            .filter_map(|(runtime, memory_mib)| {
                // Without its kernel or its image a runtime snapshot is of no use.
                let base = self.host.base(runtime, memory_mib).ok()?;
                Some(runtime_key(&base, runtime.image_name()))
            })
            .chain(started_from)
            .collect();
        if let Err(error) = self.remove_runtimes_but(&used, kept) {
            tracing::warn!(%error, "the controller could not remove unused runtime snapshots");
        }
    }

    fn remove_runtimes_but(&self, used: &HashSet<String>, kept: usize) -> io::Result<()> {
        let mut unused: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(self.data.runtime_snapshots())? {
            let entry = entry?;
            if !entry
                .file_name()
                .to_str()
                .is_some_and(|name| used.contains(name))
            {
                unused.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        unused.sort_unstable();
        unused.truncate(unused.len().saturating_sub(kept));
        for (_, folder) in unused {
            tracing::info!(
                path = %folder.display(),
                "the controller removes a runtime snapshot that no function uses"
            );
            fs::remove_dir_all(folder)?;
        }
        Ok(())
    }
}

/// Every configuration with which a function runs, or will run after its deploys.
fn configs(function: &Function) -> impl Iterator<Item = &FunctionConfig> {
    let deployed = function.record.deployed.as_ref();
    let versions = function.versions.values();
    std::iter::once(&function.record.config)
        .chain(deployed.map(|deployed| &deployed.config))
        .chain(versions.map(|version| &version.record.config))
}

/// The keys of the runtime snapshots that instances of a function's versions start from now. The host's
/// images may have changed since they were made, so [`Host::base`](super::Host::base) need not name them.
/// Kept artefacts ([`super::kept_snapshots`]) have function snapshots, which need no runtime snapshot.
fn runtimes_in_use(function: &Function) -> impl Iterator<Item = String> {
    let artefacts = function.all_live().filter_map(|live| live.artefacts());
    artefacts.filter_map(|artefacts| match &artefacts.starts_from {
        StartsFrom::FunctionSnapshot => None,
        StartsFrom::RuntimeSnapshot(init) => {
            let key = init.runtime_snapshot.file_name()?;
            key.to_str().map(str::to_owned)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::builder::tests::{Fixture, KEY};
    use super::super::source::Source;
    use super::*;
    use crate::function::{
        ArtefactFiles, Artefacts, Fingerprints, FunctionRecord, InstanceInit, NoSnapshot,
        SharedGenerators, Version, VersionContent, VersionId,
    };

    /// Empty runtime snapshots with these names, the newest first.
    fn make_runtimes(builder: &Builder, names: &[&str]) {
        for (age, name) in (1..).zip(names) {
            let folder = builder.data.runtime_snapshot(name);
            fs::create_dir_all(&folder).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(100 - age);
            fs::File::open(&folder).unwrap().set_modified(at).unwrap();
        }
    }

    /// The names of the runtime snapshots that are there, in order.
    fn left(builder: &Builder) -> Vec<String> {
        let entries = fs::read_dir(builder.data.runtime_snapshots()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// A function whose `$LATEST` runs its init in each instance, from this runtime snapshot.
    fn started_from(builder: &Builder, record: FunctionRecord, runtime: &str) -> Function {
        let mut function = Function::new(record);
        let record = &function.record;
        let source = Source {
            incarnation: &function.incarnation,
            name: &record.name,
            version: VersionId::Latest,
            config: &record.config,
            code: &record.code,
            key: KEY,
            replaces: false,
        };
        let init = InstanceInit {
            runtime_snapshot: builder.data.runtime_snapshot(runtime),
            configure: builder.configure(source),
            limit: Duration::from_secs(1),
            since: Instant::now(),
            why: NoSnapshot::SharedGenerators(SharedGenerators::of_threads_that_do_not_rest()),
        };
        let files = ArtefactFiles {
            key: KEY.into(),
            runtime_image: builder.data.image("runtime"),
            code_image: builder.data.image(KEY),
            layers_image: None,
            folder: builder.data.function_snapshot(KEY),
        };
        let starts_from = StartsFrom::RuntimeSnapshot(Box::new(init));
        let artefacts = Artefacts::new(files, Fingerprints::default(), starts_from);
        artefacts.own();
        let content = VersionContent {
            incarnation: function.incarnation.clone(),
            name: record.name.clone(),
            id: VersionId::Latest,
            config: record.config.clone(),
            code: record.code.clone(),
            revision_id: record.revision_id.clone(),
        };
        function.live = Some(Version::new(content, Some(artefacts)));
        function
    }

    #[tokio::test]
    async fn only_runtime_snapshots_that_a_function_uses_and_the_newest_others_stay() {
        let (deployer, record, _folder) = Fixture::new().deployer();
        let builder = deployer.builder.clone();
        let Ok(base) = builder
            .host
            .base(record.config.runtime, record.config.memory_mib)
        else {
            panic!("the fixture has a kernel and an image");
        };
        let used = runtime_key(&base, record.config.runtime.image_name());
        let writer = deployer.catalog.write().await;
        writer.put(Function::new(record)).await.unwrap();
        make_runtimes(&builder, &[&used, "newest", "newer", "old"]);
        let expected = |others: &[&str]| {
            let mut names: Vec<String> = others.iter().map(|name| (*name).into()).collect();
            names.push(used.clone());
            names.sort();
            names
        };
        builder.remove_unused_runtimes(&deployer.catalog, 2);
        assert_eq!(left(&builder), expected(&["newest", "newer"]));
        builder.remove_unused_runtimes(&deployer.catalog, 0);
        assert_eq!(left(&builder), expected(&[]));
    }

    /// The host's image may have changed since the version was deployed.
    #[tokio::test]
    async fn the_runtime_snapshot_that_a_version_starts_from_stays() {
        let (deployer, record, _folder) = Fixture::new().deployer();
        let builder = deployer.builder.clone();
        make_runtimes(&builder, &["newest", "of a version"]);
        let function = started_from(&builder, record, "of a version");
        let name = function.record.name.clone();
        let writer = deployer.catalog.write().await;
        writer.put(function).await.unwrap();
        builder.remove_unused_runtimes(&deployer.catalog, 0);
        assert_eq!(left(&builder), ["of a version"]);
        writer.delete(&name).await.unwrap();
        builder.remove_unused_runtimes(&deployer.catalog, 0);
        assert!(left(&builder).is_empty());
    }
}
