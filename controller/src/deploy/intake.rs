//! Checks a package by making its image, before the function is changed.

use bytes::Bytes;

use super::builder::make_image;
use super::control::{ControlError, Deployer};
use super::error::DeployError;
use super::packages::Packages;
use crate::function::Code;

/// A checked package, and its image.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) code: Code,
    pub(super) package: Bytes,
    pub(super) key: String,
    pub(super) image: ImageGuard,
}

/// Deletes an image when it is dropped, unless [`Self::keep`] was called.
#[derive(Debug)]
pub(super) struct ImageGuard(pub(super) Option<std::path::PathBuf>);

impl ImageGuard {
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for ImageGuard {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(
                path = %path.display(),
                %error,
                "the controller could not delete an unused image"
            );
        }
    }
}

impl Deployer {
    /// Checks a package by making its image.
    pub(super) async fn accept(
        &self,
        key: String,
        package: Bytes,
    ) -> Result<Accepted, ControlError> {
        let path = self.builder.data.image(&key);
        let image = ImageGuard(Some(path.clone()));
        let content = package.clone();
        let mut code = tokio::task::spawn_blocking(move || Packages::code(&content))
            .await
            .map_err(|_| DeployError::Cancelled)?;
        match make_image(package.clone(), path).await {
            Ok(made) => {
                code.unpacked = made.unpacked_bytes;
                Ok(Accepted {
                    code,
                    package,
                    key,
                    image,
                })
            }
            Err(DeployError::Image(error)) => match error.lambda_message() {
                Some(message) => {
                    tracing::info!(key, %error, "the controller refuses a package");
                    Err(ControlError::Invalid(message.into()))
                }
                None => Err(DeployError::Image(error).into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}
