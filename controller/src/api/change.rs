//! Changes: once begun, they are done to their end, also when the client goes away.

use super::app::App;
use super::http::error::ApiError;
use super::target::names::Named;
use crate::deploy::{ControlError, Deployer};
use crate::function::FunctionName;

impl App {
    /// Has a function changed, to the end.
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
            .map_err(|error| ApiError::control(error, &self.place.arn(&named.name)))
    }
}

/// Does a change to its end, also when the client goes away in the middle of it.
pub(crate) async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(change)
        .await
        .map_err(|_| ApiError::service("The change was not finished"))
}

/// Why a change that looks at what is there was refused.
pub(crate) enum ChangeError {
    Api(ApiError),
    Control(ControlError),
}

impl ChangeError {
    pub(crate) fn shown(self, arn: &str) -> ApiError {
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
