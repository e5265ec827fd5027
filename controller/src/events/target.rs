//! Runs events: resolves the function and version at the time of the run, and submits to the pool.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::event::Event;
use crate::function::{ArnScope, FunctionName, Version};
use crate::pool::{Invocation, NotRun, Pool};
use crate::registry::{Catalog, NoVersion};

/// The result of an attempt to run a function with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attempt {
    Ran(Ran),
    /// A limit of concurrency or instances is reached.
    Throttled,
    /// The controller could not run the function. The text is the reason, for the log.
    Failed(String),
    /// The function, version or alias does not exist.
    Gone,
    /// The function has a reserved concurrency of 0: it must not run at all.
    NoConcurrency,
    /// The controller is ending.
    Ending,
}

/// The function has run, successfully or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) payload: Bytes,
    /// Whether `payload` is a function error.
    pub(crate) failed: bool,
    pub(crate) executed_version: String,
}

/// Runs functions. Tests have an implementation of their own.
pub(crate) trait Functions: std::fmt::Debug + Send + Sync {
    fn run<'a>(&'a self, event: &'a Event) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>>;

    /// Whether there is such a function.
    fn exists(&self, function: &FunctionName) -> bool;

    /// The function's ARN with a qualifier.
    fn arn(&self, function: &FunctionName, qualifier: &str) -> String;
}

/// The functions of this controller.
#[derive(Debug)]
pub(crate) struct PooledFunctions {
    catalog: Arc<Catalog>,
    pool: Pool,
    arn_scope: ArnScope,
    /// A permit for each MiB that instances of running events may have together.
    memory: Semaphore,
    memory_mib: u32,
}

impl PooledFunctions {
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        pool: Pool,
        arn_scope: ArnScope,
        memory_mib: u64,
    ) -> Self {
        let memory_mib = u32::try_from(memory_mib).unwrap_or(u32::MAX);
        Self {
            catalog,
            pool,
            arn_scope,
            memory: Semaphore::new(memory_mib as usize),
            memory_mib,
        }
    }

    /// The version that the event's qualifier names now.
    fn resolve(&self, event: &Event) -> Result<Arc<Version>, Attempt> {
        let function = self.catalog.get(&event.request.function);
        let function = function.ok_or(Attempt::Gone)?;
        if function.record.reserved_concurrency == Some(0) {
            return Err(Attempt::NoConcurrency);
        }
        let version = function.version_to_run(event.request.qualifier.as_deref());
        version.map_err(|why| match why {
            NoVersion::Missing => Attempt::Gone,
            NoVersion::State(state) => Attempt::Failed(format!("the function is {}", state.name())),
        })
    }

    async fn attempt(&self, event: &Event) -> Attempt {
        let version = match self.resolve(event) {
            Ok(version) => version,
            Err(attempt) => return attempt,
        };
        let executed = version.id;
        if version.config.tenant_isolation != event.request.tenant.is_some() {
            return Attempt::Failed("the function isolates tenants, and the event has none".into());
        }
        let memory = version.config.memory_mib.min(self.memory_mib);
        let Ok(_share) = self.memory.acquire_many(memory).await else {
            return Attempt::Ending;
        };
        let request = &event.request;
        let invocation = Invocation {
            limits: request.limits.on(&version),
            trace_id: request.trace_id.clone(),
            tenant: request.tenant.clone(),
            background: true,
            ..Invocation::new(
                request.request_id.clone(),
                version,
                self.arn_scope
                    .function_arn(&request.function, request.qualifier.as_deref()),
                request.payload.clone(),
            )
        };
        match self.pool.submit(invocation).await {
            Ok(completed) => Attempt::Ran(Ran {
                payload: completed.payload,
                failed: completed.failed,
                executed_version: executed.to_string(),
            }),
            Err(NotRun::Throttled | NotRun::ReservedConcurrency) => Attempt::Throttled,
            Err(NotRun::Unavailable(why)) => Attempt::Failed(why),
            Err(why @ (NotRun::RestoreHook(_) | NotRun::RestoreTimeout(_))) => {
                Attempt::Failed(why.to_string())
            }
            Err(NotRun::Ending) => Attempt::Ending,
        }
    }
}

impl Functions for PooledFunctions {
    fn run<'a>(&'a self, event: &'a Event) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>> {
        Box::pin(self.attempt(event))
    }

    fn exists(&self, function: &FunctionName) -> bool {
        self.catalog.get(function).is_some()
    }

    fn arn(&self, function: &FunctionName, qualifier: &str) -> String {
        self.arn_scope.qualified_arn(function, qualifier)
    }
}
