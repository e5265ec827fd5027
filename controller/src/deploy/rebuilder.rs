//! Rebuilds the artefacts of a version.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tracing::Instrument;

use super::builder::{Builder, new_key};
use super::error::DeployError;
use super::source::Source;
use crate::function::{Artefacts, Deployed, Made, Version, VersionId};
use crate::pool::ArtefactSource;
use crate::registry::{Catalog, Function};

/// Rebuilds artefacts that can't be used. The caller's span has function and version.
#[derive(Debug)]
pub(crate) struct Rebuilder {
    builder: Arc<Builder>,
    catalog: Arc<Catalog>,
}

impl Rebuilder {
    pub(crate) fn new(builder: Arc<Builder>, catalog: Arc<Catalog>) -> Self {
        Self { builder, catalog }
    }

    async fn make(&self, version: &Arc<Version>) -> Result<Arc<Artefacts>, DeployError> {
        let name = &version.name;
        let key = new_key(name);
        let source = Source {
            incarnation: &version.incarnation,
            name,
            version: version.id,
            config: &version.config,
            code: &version.code,
            key: &key,
            replaces: false,
        };
        let span = tracing::error_span!("rebuild", key);
        let artefacts = self.builder.build(source).instrument(span).await?;
        let made = artefacts.made();
        let writer = self.catalog.write().await;
        match writer
            .get(name)
            .and_then(|function| renewed(&function, version, made))
        {
            Some(function) => {
                if let Err(error) = writer.put(function).await {
                    // The version serves now, but the next start rebuilds it again.
                    tracing::error!(
                        %error,
                        "the controller could not store the record of a rebuilt snapshot"
                    );
                }
            }
            // The version was replaced meanwhile, so it does not own them. They serve its waiting invocations
            // and are deleted after that.
            None => artefacts.disown(),
        }
        version.set_artefacts(artefacts.clone());
        Ok(artefacts)
    }
}

/// The function with the record of a version's new artefacts, if the version still serves.
fn renewed(function: &Function, version: &Arc<Version>, made: Made) -> Option<Function> {
    let mut function = function.clone();
    let serves =
        |live: &Option<Arc<Version>>| live.as_ref().is_some_and(|live| Arc::ptr_eq(live, version));
    match version.id {
        VersionId::Latest if serves(&function.live) => {
            function.record.deployed = Some(Deployed {
                config: version.config.clone(),
                code: version.code.clone(),
                made,
                snapshot_reused: false,
            });
        }
        VersionId::Number(number) => {
            let published = function.published_mut(number)?;
            if !serves(&published.live) {
                return None;
            }
            published.record.made = Some(made);
        }
        VersionId::Latest => return None,
    }
    Some(function)
}

impl ArtefactSource for Rebuilder {
    fn rebuild<'a>(
        &'a self,
        version: &'a Arc<Version>,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<Artefacts>, String>> + Send + 'a>> {
        Box::pin(async move {
            self.make(version).await.map_err(|error| {
                let error = error.to_string();
                tracing::error!(
                    error,
                    "the controller could not rebuild the snapshot of a function"
                );
                error
            })
        })
    }
}
