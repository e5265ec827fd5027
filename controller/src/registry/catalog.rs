//! Functions and layers in memory: their records, and the versions that run invocations.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use tokio::sync::{Mutex, MutexGuard};

use super::packages_in_use::of_layer;
use super::{Database, RegistryError};
use crate::function::{
    FunctionName, FunctionRecord, Incarnation, LayerName, LayerRecord, Version, VersionId,
    VersionRecord,
};
use crate::function_url::UrlIndex;
use crate::locks::{read, write};

/// One function. Replaced as a whole on every change, so a reader never sees half of one.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) record: FunctionRecord,
    /// From its creation, or this process's start, until its deletion.
    pub(crate) incarnation: Incarnation,
    /// The version that serves `$LATEST`; `None` until the first deploy has succeeded.
    pub(crate) live: Option<Arc<Version>>,
    /// The published versions by number.
    pub(crate) versions: BTreeMap<u32, Arc<Published>>,
}

/// A published version.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) record: VersionRecord,
    /// The version that serves; `None` until its deploy has succeeded.
    pub(crate) live: Option<Arc<Version>>,
}

impl Function {
    /// A function without versions.
    pub(crate) fn new(record: FunctionRecord) -> Self {
        Self {
            record,
            incarnation: Incarnation::default(),
            live: None,
            versions: BTreeMap::new(),
        }
    }

    /// A published version, for a change.
    pub(crate) fn published_mut(&mut self, number: u32) -> Option<&mut Published> {
        self.versions.get_mut(&number).map(Arc::make_mut)
    }

    /// Every version that can run.
    pub(crate) fn all_live(&self) -> impl Iterator<Item = &Arc<Version>> {
        let published = self.versions.values().filter_map(|v| v.live.as_ref());
        self.live.iter().chain(published)
    }

    /// The versions with a running deploy, and the deploys' keys.
    pub(crate) fn pending(&self) -> impl Iterator<Item = (VersionId, &str)> {
        let latest = self.record.pending_deploy.as_deref();
        let versions = self.versions.iter().filter_map(|(number, version)| {
            let key = version.record.pending_deploy.as_deref()?;
            Some((VersionId::Number(*number), key))
        });
        latest
            .map(|key| (VersionId::Latest, key))
            .into_iter()
            .chain(versions)
    }
}

/// All functions and layers.
#[derive(Debug)]
pub(crate) struct Catalog {
    database: Database,
    functions: RwLock<BTreeMap<FunctionName, Arc<Function>>>,
    layers: RwLock<BTreeMap<LayerName, Arc<LayerRecord>>>,
    urls: UrlIndex,
    writing: Mutex<()>,
}

impl Catalog {
    pub(crate) fn new(
        database: Database,
        functions: Vec<Function>,
        layers: Vec<LayerRecord>,
    ) -> Self {
        let urls = UrlIndex::default();
        for function in &functions {
            urls.change(&function.record.name, None, Some(&function.record.urls));
        }
        let layers = layers
            .into_iter()
            .map(|layer| (layer.name.clone(), Arc::new(layer)))
            .collect();
        let functions = functions
            .into_iter()
            .map(|function| (function.record.name.clone(), Arc::new(function)))
            .collect();
        Self {
            database,
            functions: RwLock::new(functions),
            layers: RwLock::new(layers),
            urls,
            writing: Mutex::new(()),
        }
    }

    /// Whether changes can be stored: the registry's thread runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.database.is_alive()
    }

    pub(crate) fn get(&self, name: &FunctionName) -> Option<Arc<Function>> {
        self.read().get(name).cloned()
    }

    /// The function and qualifier of the URL with this id.
    pub(crate) fn by_url(&self, id: &str) -> Option<(FunctionName, String)> {
        self.urls.find(id)
    }

    /// Up to `limit` functions after `marker` in the order of their names, and whether there are
    /// more.
    pub(crate) fn list(
        &self,
        marker: Option<&FunctionName>,
        limit: usize,
    ) -> (Vec<Arc<Function>>, bool) {
        let functions = self.read();
        let start = marker.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = functions.range::<FunctionName, _>((start, Bound::Unbounded));
        let page = rest
            .by_ref()
            .take(limit)
            .map(|(_, function)| function.clone())
            .collect();
        (page, rest.next().is_some())
    }

    pub(crate) fn layer(&self, name: &LayerName) -> Option<Arc<LayerRecord>> {
        self.read_layers().get(name).cloned()
    }

    /// Every layer, in the order of their names.
    pub(crate) fn layers(&self) -> Vec<Arc<LayerRecord>> {
        self.read_layers().values().cloned().collect()
    }

    fn read_layers(&self) -> RwLockReadGuard<'_, BTreeMap<LayerName, Arc<LayerRecord>>> {
        read(&self.layers)
    }

    /// Locks the catalog for a change: one at a time, each on disk before reads see it.
    pub(crate) async fn write(&self) -> Writer<'_> {
        Writer {
            catalog: self,
            _turn: self.writing.lock().await,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<FunctionName, Arc<Function>>> {
        read(&self.functions)
    }
}

/// Changes functions and layers, while it holds the catalog's lock.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    catalog: &'a Catalog,
    _turn: MutexGuard<'a, ()>,
}

impl Writer<'_> {
    pub(crate) fn get(&self, name: &FunctionName) -> Option<Arc<Function>> {
        self.catalog.get(name)
    }

    pub(crate) fn layer(&self, name: &LayerName) -> Option<Arc<LayerRecord>> {
        self.catalog.layer(name)
    }

    pub(crate) async fn put_layer(&self, layer: LayerRecord) -> Result<(), RegistryError> {
        self.catalog.database.put_layer(&layer).await?;
        write(&self.catalog.layers).insert(layer.name.clone(), Arc::new(layer));
        Ok(())
    }

    /// Whether the record of any function or layer refers to this package.
    pub(crate) fn uses_code(&self, sha256: &str) -> bool {
        let layers = self.catalog.read_layers();
        let functions = self.catalog.read();
        layers
            .values()
            .flat_map(|layer| of_layer(layer))
            .chain(functions.values().flat_map(|function| function.packages()))
            .any(|used| used == sha256)
    }

    pub(crate) async fn put(&self, function: Function) -> Result<Arc<Function>, RegistryError> {
        let before = self.get(&function.record.name);
        let known = before.iter().flat_map(|before| &before.versions);
        let removed = known
            .clone()
            .filter(|(number, _)| !function.versions.contains_key(number))
            .map(|(number, _)| *number)
            .collect();
        let known: BTreeMap<_, _> = known.collect();
        // A version that was not changed is still the same `Arc`.
        let written = function
            .versions
            .iter()
            .filter(|(number, now)| !known.get(number).is_some_and(|old| Arc::ptr_eq(old, now)))
            .map(|(_, version)| &version.record);
        self.catalog
            .database
            .put(&function.record, written, removed)
            .await?;
        let function = Arc::new(function);
        write(&self.catalog.functions).insert(function.record.name.clone(), function.clone());
        let known = before.as_ref().map(|before| &before.record.urls);
        let now = &function.record;
        self.catalog.urls.change(&now.name, known, Some(&now.urls));
        Ok(function)
    }

    pub(crate) async fn delete(
        &self,
        name: &FunctionName,
    ) -> Result<Option<Arc<Function>>, RegistryError> {
        self.catalog.database.delete(name).await?;
        let deleted = write(&self.catalog.functions).remove(name);
        if let Some(deleted) = &deleted {
            deleted.incarnation.end();
        }
        let urls = deleted.as_ref().map(|deleted| &deleted.record.urls);
        self.catalog.urls.change(name, urls, None);
        Ok(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::tests::{record, version_record};
    use super::*;

    #[tokio::test]
    async fn pages_follow_each_other_in_the_order_of_names_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let (database, _) =
            Database::open(&dir.path().join("r.db"), &dir.path().join("key")).unwrap();
        let catalog = Catalog::new(database, Vec::new(), Vec::new());
        for name in ["c", "a", "b"] {
            let function = Function::new(record(name));
            catalog.write().await.put(function).await.unwrap();
        }
        let names = |page: &[Arc<Function>]| -> Vec<String> {
            page.iter().map(|f| f.record.name.to_string()).collect()
        };
        let (page, more) = catalog.list(None, 2);
        assert_eq!((names(&page), more), (vec!["a".into(), "b".into()], true));
        let (page, more) = catalog.list(Some(&page[1].record.name), 2);
        assert_eq!((names(&page), more), (vec!["c".into()], false));
    }

    #[tokio::test]
    async fn a_code_package_is_in_use_until_the_last_function_of_it_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let (database, _) =
            Database::open(&dir.path().join("r.db"), &dir.path().join("key")).unwrap();
        let catalog = Catalog::new(database, Vec::new(), Vec::new());
        let writer = catalog.write().await;
        writer.put(Function::new(record("a"))).await.unwrap();
        assert!(writer.uses_code(&"0".repeat(64)));
        writer
            .delete(&FunctionName::parse("a").unwrap())
            .await
            .unwrap();
        assert!(!writer.uses_code(&"0".repeat(64)));
    }

    #[tokio::test]
    async fn versions_are_written_and_removed_with_their_function() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.db");
        let (database, _) = Database::open(&path, &dir.path().join("key")).unwrap();
        let catalog = Catalog::new(database, Vec::new(), Vec::new());
        let mut function = Function::new(record("a"));
        for number in [1, 2] {
            let version = Published {
                record: version_record(number),
                live: None,
            };
            function.versions.insert(number, Arc::new(version));
        }
        let writer = catalog.write().await;
        writer.put(function.clone()).await.unwrap();
        function.versions.remove(&1);
        writer.put(function).await.unwrap();
        drop(writer);
        drop(catalog);
        let (_, stored) = Database::open(&path, &dir.path().join("key")).unwrap();
        assert_eq!(stored.functions[0].versions, [version_record(2)]);
    }
}
