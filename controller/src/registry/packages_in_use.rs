//! Which packages the records refer to. The files of all others may be deleted.

use std::collections::HashSet;

use super::{Contents, Function};
use crate::function::{Code, FunctionConfig, FunctionRecord, LayerRecord, VersionRecord};

impl Function {
    /// The hashes of all packages that its records refer to, some more than once.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &str> {
        let versions = self.versions.values();
        of_function(&self.record, versions.map(|version| &version.record))
    }
}

impl Contents {
    /// The hashes of all packages that the records refer to.
    pub(crate) fn packages(&self) -> HashSet<&str> {
        let functions = self.functions.iter();
        functions
            .flat_map(|stored| of_function(&stored.record, stored.versions.iter()))
            .chain(self.layers.iter().flat_map(of_layer))
            .collect()
    }
}

/// The packages of a function: of the last update, of what serves, and of its versions.
fn of_function<'a>(
    record: &'a FunctionRecord,
    versions: impl Iterator<Item = &'a VersionRecord>,
) -> impl Iterator<Item = &'a str> {
    let deployed = record.deployed.as_ref();
    std::iter::once((&record.code, &record.config))
        .chain(deployed.map(|deployed| (&deployed.code, &deployed.config)))
        .chain(versions.map(|version| (&version.code, &version.config)))
        .flat_map(|(code, config)| of_version(code, config))
}

/// The package of the code, and those of the layers.
fn of_version<'a>(code: &'a Code, config: &'a FunctionConfig) -> impl Iterator<Item = &'a str> {
    std::iter::once(code)
        .chain(config.layers.iter().map(|layer| &layer.code))
        .map(|code| code.sha256.as_str())
}

/// The packages of a layer's versions.
pub(super) fn of_layer(layer: &LayerRecord) -> impl Iterator<Item = &str> {
    let versions = layer.versions.values();
    versions.map(|version| version.code.sha256.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::database::tests::{record, version_record};
    use super::super::{Published, Stored};
    use super::*;
    use crate::function::{Deployed, LayerUse, Made};

    fn code(sha256: &str) -> Code {
        Code {
            sha256: sha256.into(),
            size: 1,
            unpacked: 1,
        }
    }

    fn with_layer(config: &FunctionConfig, sha256: &str) -> FunctionConfig {
        let layer = LayerUse {
            arn: "arn".into(),
            code: code(sha256),
        };
        FunctionConfig {
            layers: vec![layer],
            ..config.clone()
        }
    }

    #[test]
    fn packages_of_the_update_of_what_serves_and_of_versions_are_in_use_with_their_layers() {
        let mut record = record("f");
        record.deployed = Some(Deployed {
            config: with_layer(&record.config, "served layer"),
            code: code("served"),
            made: Made {
                key: "k".into(),
                fingerprint: "f".into(),
                shared_generators: None,
                failed_init: None,
            },
            snapshot_reused: false,
        });
        record.config = with_layer(&record.config, "layer");
        record.code = code("code");
        let mut version = version_record(1);
        version.config = with_layer(&version.config, "published layer");
        version.code = code("published");
        let mut function = Function::new(record.clone());
        let published = Published {
            record: version.clone(),
            live: None,
        };
        function.versions.insert(1, Arc::new(published));
        let all = [
            "code",
            "layer",
            "served",
            "served layer",
            "published",
            "published layer",
        ];
        assert_eq!(function.packages().collect::<Vec<_>>(), all);
        let stored = Stored {
            record,
            versions: vec![version],
        };
        let contents = Contents {
            functions: vec![stored],
            layers: Vec::new(),
        };
        assert_eq!(contents.packages(), HashSet::from(all));
    }
}
