//! Functions in memory: records, and the version of each that invocations run on.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{Mutex, MutexGuard};

use super::{Database, RegistryError};
use crate::function::{FunctionName, FunctionRecord, Version};

/// One function. Replaced as a whole on every change, so a reader never sees half of one.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) record: FunctionRecord,
    /// What serves; `None` before the first deploy has succeeded.
    pub(crate) live: Option<Arc<Version>>,
}

/// All functions.
#[derive(Debug)]
pub(crate) struct Catalog {
    database: Database,
    functions: RwLock<BTreeMap<FunctionName, Arc<Function>>>,
    writing: Mutex<()>,
}

impl Catalog {
    pub(crate) fn new(database: Database, functions: Vec<Function>) -> Self {
        let functions = functions
            .into_iter()
            .map(|function| (function.record.name.clone(), Arc::new(function)))
            .collect();
        Self {
            database,
            functions: RwLock::new(functions),
            writing: Mutex::new(()),
        }
    }

    pub(crate) fn get(&self, name: &FunctionName) -> Option<Arc<Function>> {
        self.read().get(name).cloned()
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

    /// Takes the right to change functions: one change at a time, each on disk before it is seen.
    pub(crate) async fn write(&self) -> Writer<'_> {
        Writer {
            catalog: self,
            _turn: self.writing.lock().await,
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<FunctionName, Arc<Function>>> {
        self.functions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to change functions.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    catalog: &'a Catalog,
    _turn: MutexGuard<'a, ()>,
}

impl Writer<'_> {
    pub(crate) fn get(&self, name: &FunctionName) -> Option<Arc<Function>> {
        self.catalog.get(name)
    }

    /// Whether any function's record speaks of this code package.
    pub(crate) fn uses_code(&self, sha256: &str) -> bool {
        self.catalog.read().values().any(|function| {
            let record = &function.record;
            record.code.sha256 == sha256
                || record
                    .deployed
                    .as_ref()
                    .is_some_and(|deployed| deployed.code.sha256 == sha256)
        })
    }

    pub(crate) async fn put(&self, function: Function) -> Result<Arc<Function>, RegistryError> {
        self.catalog.database.put(&function.record).await?;
        let function = Arc::new(function);
        self.catalog
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(function.record.name.clone(), function.clone());
        Ok(function)
    }

    pub(crate) async fn delete(
        &self,
        name: &FunctionName,
    ) -> Result<Option<Arc<Function>>, RegistryError> {
        self.catalog.database.delete(name).await?;
        Ok(self
            .catalog
            .functions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::tests::record;
    use super::*;

    #[tokio::test]
    async fn pages_follow_each_other_in_the_order_of_names_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let (database, _) = Database::open(&dir.path().join("r.db")).unwrap();
        let catalog = Catalog::new(database, Vec::new());
        for name in ["c", "a", "b"] {
            let function = Function {
                record: record(name),
                live: None,
            };
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
        let (database, _) = Database::open(&dir.path().join("r.db")).unwrap();
        let catalog = Catalog::new(database, Vec::new());
        let writer = catalog.write().await;
        writer
            .put(Function {
                record: record("a"),
                live: None,
            })
            .await
            .unwrap();
        assert!(writer.uses_code(&"0".repeat(64)));
        writer
            .delete(&FunctionName::parse("a").unwrap())
            .await
            .unwrap();
        assert!(!writer.uses_code(&"0".repeat(64)));
    }
}
