//! The state that all handlers share: the parts of the controller, and a limit on uploads at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_protocol::jail::Jail;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::http::error::ApiError;
use super::packages::download::Downloads;
use crate::deploy::{Builder, Deployer};
use crate::events::Events;
use crate::function::ArnScope;
use crate::limits::Isolation;
use crate::logs::LogStore;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::registry::Catalog;

/// Uploads that are read and unpacked at the same time: each may take 100 MB of memory.
const UPLOADS: usize = 4;
/// Longest time that an upload waits until it may begin.
const UPLOAD_WAIT: Duration = Duration::from_secs(60);

/// The state that all handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) arn_scope: ArnScope,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) pool: Pool,
    pub(crate) events: Events,
    pub(crate) deployer: Deployer,
    pub(crate) builder: Arc<Builder>,
    pub(crate) logs: LogStore,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) isolation: Isolation,
    pub(crate) jail: Jail,
    pub(crate) warnings: Vec<String>,
    pub(crate) started: Instant,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) downloads: Downloads,
    /// Cancelled when the controller is about to end: it is not ready any more.
    pub(crate) leaving: CancellationToken,
    /// Cancelled when it accepts no connections any more.
    pub(crate) draining: CancellationToken,
}

impl App {
    /// Permits for [`Self::upload_permit`].
    pub(crate) fn upload_permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(UPLOADS))
    }

    /// A permit to read and unpack a package. The task that unpacks holds it to its end, also after
    /// the client has disconnected: the memory is in use until then.
    pub(crate) async fn upload_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        match tokio::time::timeout(UPLOAD_WAIT, self.uploads.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ApiError::unavailable("Too many uploads at once")),
        }
    }
}
