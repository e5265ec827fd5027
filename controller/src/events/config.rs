//! Lambda's event invoke configurations, one for each function and qualifier.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};

use super::group_commit::{EventsError, GroupCommit};
use super::retry::{RetryRules, RetrySettings};
use super::rows;
use crate::function::{FunctionName, LATEST};
use crate::locks::{read, write};

/// The configuration of one function and qualifier. `None` is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventInvokeConfig {
    pub(crate) maximum_retry_attempts: Option<u32>,
    pub(crate) maximum_event_age_seconds: Option<u32>,
    pub(crate) on_success: Option<Destination>,
    pub(crate) on_failure: Option<Destination>,
    /// Milliseconds since 1970.
    pub(crate) last_modified_ms: i64,
}

impl EventInvokeConfig {
    /// The retry rules of a configuration, or the defaults if there is none.
    pub(crate) fn rules(config: Option<&Self>, settings: &RetrySettings) -> RetryRules {
        let seconds = |s: u32| Duration::from_secs(s.into());
        RetryRules::new(
            settings,
            config.and_then(|config| config.maximum_retry_attempts),
            config
                .and_then(|config| config.maximum_event_age_seconds)
                .map(seconds),
        )
    }
}

/// The function that gets the invocation record when an event is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Destination {
    /// As the client has given it.
    pub(crate) arn: String,
    pub(crate) function: FunctionName,
    pub(crate) qualifier: Option<String>,
}

type Book = BTreeMap<(FunctionName, String), Arc<EventInvokeConfig>>;

/// All configurations. Reads come from memory. A change is on disk before reads see it.
#[derive(Debug)]
pub(crate) struct Configs {
    commits: GroupCommit,
    book: Arc<RwLock<Book>>,
    writing: Mutex<()>,
}

impl Configs {
    /// Parses the documents in the file.
    pub(crate) fn new(commits: GroupCommit, documents: Vec<rows::ConfigRow>) -> Self {
        let mut book = Book::new();
        for row in documents {
            let name = FunctionName::parse(&row.function).map_err(|error| error.to_string());
            let config = serde_json::from_str(&row.document).map_err(|error| error.to_string());
            match (name, config) {
                (Ok(name), Ok(config)) => {
                    book.insert((name, row.qualifier), Arc::new(config));
                }
                // The function's events then have the defaults.
                (Err(error), _) | (_, Err(error)) => tracing::error!(
                    function = row.function,
                    qualifier = row.qualifier,
                    error,
                    "an event invoke configuration is damaged"
                ),
            }
        }
        Self {
            commits,
            book: Arc::new(RwLock::new(book)),
            writing: Mutex::new(()),
        }
    }

    /// The configuration of a qualifier; `None` is `$LATEST`.
    pub(crate) fn get(
        &self,
        function: &FunctionName,
        qualifier: Option<&str>,
    ) -> Option<Arc<EventInvokeConfig>> {
        let key = (function.clone(), qualifier.unwrap_or(LATEST).to_owned());
        self.read().get(&key).cloned()
    }

    /// Up to `limit` configurations of a function after the qualifier `marker`, and whether there are
    /// more.
    pub(crate) fn list(
        &self,
        function: &FunctionName,
        marker: Option<&str>,
        limit: usize,
    ) -> (Vec<(String, Arc<EventInvokeConfig>)>, bool) {
        let book = self.read();
        let start = match marker {
            Some(marker) => Bound::Excluded((function.clone(), marker.to_owned())),
            None => Bound::Included((function.clone(), String::new())),
        };
        let mut rest = book
            .range((start, Bound::Unbounded))
            .take_while(|((name, _), _)| name == function);
        let page = rest
            .by_ref()
            .take(limit)
            .map(|((_, qualifier), config)| (qualifier.clone(), config.clone()))
            .collect();
        (page, rest.next().is_some())
    }

    /// The functions that have a configuration.
    pub(crate) fn functions(&self) -> Vec<FunctionName> {
        let mut names: Vec<FunctionName> =
            self.read().keys().map(|(name, _)| name.clone()).collect();
        names.dedup();
        names
    }

    /// Locks the configurations for changes: one change at a time.
    pub(crate) async fn write(&self) -> ConfigWriter<'_> {
        ConfigWriter {
            configs: self,
            _turn: self.writing.lock().await,
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Book> {
        read(&self.book)
    }
}

/// Changes configurations, while it holds their lock.
#[derive(Debug)]
pub(crate) struct ConfigWriter<'a> {
    configs: &'a Configs,
    _turn: MutexGuard<'a, ()>,
}

impl ConfigWriter<'_> {
    pub(crate) async fn put(
        &self,
        function: &FunctionName,
        qualifier: Option<&str>,
        config: EventInvokeConfig,
    ) -> Result<Arc<EventInvokeConfig>, EventsError> {
        let document = serde_json::to_string(&config).map_err(|error| EventsError::Config {
            function: function.to_string(),
            why: error.to_string(),
        })?;
        let config = Arc::new(config);
        let key = (function.clone(), qualifier.unwrap_or(LATEST).to_owned());
        let (row, value) = (key.clone(), config.clone());
        self.change(
            move |file| rows::put_config(file, row.0.as_str(), &row.1, &document),
            move |book| drop(book.insert(key, value)),
        )
        .await?;
        Ok(config)
    }

    pub(crate) async fn delete(
        &self,
        function: &FunctionName,
        qualifier: Option<&str>,
    ) -> Result<(), EventsError> {
        let key = (function.clone(), qualifier.unwrap_or(LATEST).to_owned());
        let row = key.clone();
        self.change(
            move |file| rows::remove_config(file, row.0.as_str(), &row.1),
            move |book| drop(book.remove(&key)),
        )
        .await
    }

    /// Deletes the configurations of a deleted function.
    pub(crate) async fn forget(&self, function: &FunctionName) -> Result<(), EventsError> {
        let (row, name) = (function.clone(), function.clone());
        self.change(
            move |file| rows::remove_configs(file, row.as_str()),
            move |book| book.retain(|(of, _), _| *of != name),
        )
        .await
    }

    async fn change(
        &self,
        on_disk: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<()> + Send + 'static,
        in_memory: impl FnOnce(&mut Book) + Send + 'static,
    ) -> Result<(), EventsError> {
        let book = self.configs.book.clone();
        let then = move |written: Result<&(), &EventsError>| {
            if written.is_ok() {
                in_memory(&mut write(&book));
            }
        };
        self.configs
            .commits
            .commit(0, move |rows| on_disk(rows), then)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> FunctionName {
        FunctionName::parse(name).unwrap()
    }

    fn open(path: &std::path::Path) -> Configs {
        let connection = rows::open(path).unwrap();
        let documents = rows::configs(&connection).unwrap();
        let commits = GroupCommit::start(connection, path.into()).unwrap();
        Configs::new(commits, documents)
    }

    fn config(retries: u32) -> EventInvokeConfig {
        EventInvokeConfig {
            maximum_retry_attempts: Some(retries),
            on_failure: Some(Destination {
                arn: "arn:aws:lambda:us-east-1:000000000000:function:g:live".into(),
                function: name("g"),
                qualifier: Some("live".into()),
            }),
            ..EventInvokeConfig::default()
        }
    }

    #[tokio::test]
    async fn configurations_survive_reopening_and_deleted_ones_stay_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.db");
        let configs = open(&path);
        let writer = configs.write().await;
        let (f, g) = (name("f"), name("g"));
        writer.put(&f, None, config(0)).await.unwrap();
        writer.put(&f, None, config(1)).await.unwrap();
        writer.put(&f, Some("live"), config(2)).await.unwrap();
        writer.put(&g, Some("1"), config(0)).await.unwrap();
        writer.delete(&f, Some("live")).await.unwrap();
        writer.forget(&g).await.unwrap();
        assert_eq!(*configs.get(&f, Some(LATEST)).unwrap(), config(1));
        drop(writer);
        drop(configs);
        let configs = open(&path);
        assert_eq!(*configs.get(&f, None).unwrap(), config(1));
        assert_eq!(configs.get(&f, Some("live")), None);
        assert_eq!(configs.functions(), [f]);
    }

    #[tokio::test]
    async fn a_functions_are_listed_by_qualifier_in_pages() {
        let dir = tempfile::tempdir().unwrap();
        let configs = open(&dir.path().join("events.db"));
        let writer = configs.write().await;
        for (function, qualifier) in [
            ("e", None),
            ("f", Some("live")),
            ("f", None),
            ("f", Some("1")),
            ("g", None),
        ] {
            writer
                .put(&name(function), qualifier, config(0))
                .await
                .unwrap();
        }
        let page = |marker: Option<&str>| {
            let (page, more) = configs.list(&name("f"), marker, 2);
            let qualifiers: Vec<String> = page.into_iter().map(|(q, _)| q).collect();
            (qualifiers, more)
        };
        assert_eq!(page(None), (vec![LATEST.into(), "1".into()], true));
        assert_eq!(page(Some("1")), (vec!["live".into()], false));
    }
}
