//! Changes run in a task of their own, so that they reach their end even if the client disconnects.

use tracing::Instrument;

use super::app::App;
use super::http::error::ApiError;
use super::target::names::Named;
use crate::deploy::{ControlError, Deployer};
use crate::function::FunctionName;

impl App {
    /// Runs a change of a function to its end.
    pub(crate) async fn change_function<T, F>(
        &self,
        named: &Named,
        change: impl FnOnce(Deployer, FunctionName) -> F,
    ) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ControlError>> + Send + 'static,
    {
        to_the_end(change(self.deployer.clone(), named.name.clone()))
            .await?
            .map_err(|error| ApiError::control(error, &self.arn_scope.arn(&named.name)))
    }
}

/// Runs a change to its end. hyper drops the handler when its client disconnects, and a change that
/// is dropped half-way would leave the registry and the files apart.
pub(crate) async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(change.in_current_span())
        .await
        .map_err(|_| ApiError::service("The change was not finished"))
}

/// Why a change was refused that checks its request against the current configuration.
pub(crate) enum ChangeError {
    Api(ApiError),
    Control(ControlError),
}

impl ChangeError {
    pub(crate) fn into_api_error(self, arn: &str) -> ApiError {
        match self {
            Self::Api(error) => error,
            Self::Control(error) => ApiError::control(error, arn),
        }
    }
}

impl From<ControlError> for ChangeError {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}
