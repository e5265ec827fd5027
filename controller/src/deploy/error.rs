//! Why a deploy has failed. The texts are for the function's author and for the operator.

use std::path::PathBuf;
use std::time::Duration;

use crate::function::SealError;
use crate::instance::{LaunchError, VmError};

/// Why a deploy has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    /// The function's init has failed.
    #[error("{kind}: {message}")]
    Init {
        /// The error's name, from the runtime or the agent.
        kind: String,
        /// The error's message.
        message: String,
    },
    /// The timeout of init has passed.
    #[error("Runtime.InitTimeout: init did not end within {} seconds", .0.as_secs())]
    InitTimeout(Duration),
    /// There is no runtime image in the artefact cache.
    #[error("there is no image of runtime {0}: run `hearth-rootfs runtime {0}` (or `make images`)")]
    NoRuntimeImage(&'static str),
    /// There is no guest kernel in the artefact cache.
    #[error("there is no guest kernel: run `hearth-rootfs kernel` (or `make images`)")]
    NoKernel,
    /// The artefact cache can't be read.
    #[error(transparent)]
    Cache(#[from] hearth_rootfs::Error),
    /// The package's image can't be made.
    #[error(transparent)]
    Image(#[from] hearth_rootfs::function::FunctionError),
    /// The package store has failed.
    #[error("package store: {0}")]
    Packages(#[from] object_store::Error),
    /// A sandbox can't be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The sandbox or its guest has failed.
    #[error("{doing}: {source}")]
    Vm {
        /// The operation.
        doing: &'static str,
        /// The failure.
        source: VmError,
    },
    /// An operation on a file has failed.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A file has changed since it was made.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The controller is ending, or the function was deleted or updated meanwhile.
    #[error("the deploy was given up")]
    Cancelled,
}

impl DeployError {
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    pub(crate) fn vm(doing: &'static str) -> impl FnOnce(VmError) -> Self {
        move |source| Self::Vm { doing, source }
    }

    /// Whether the function's own init has failed, and not the platform.
    pub(super) fn is_of_init(&self) -> bool {
        matches!(self, Self::Init { .. } | Self::InitTimeout(_))
    }

    /// The text for clients, who need not know the host's paths.
    pub(crate) fn for_clients(&self) -> String {
        match self {
            Self::Io { action, source, .. } => format!("can't {action} a file: {source}"),
            Self::Packages(_) => "the package store has failed".into(),
            Self::Image(_) => "the package's image could not be made".into(),
            other => other.to_string(),
        }
    }

    /// Lambda's `StateReasonCode`.
    pub(crate) fn reason_code(&self) -> &'static str {
        match self {
            Self::Init { kind, .. } => match kind.as_str() {
                "Runtime.InvalidEntrypoint" => "FunctionError.InvalidEntryPoint",
                "Runtime.InvalidWorkingDir" => "FunctionError.InvalidWorkingDirectory",
                "Runtime.OutOfMemory" => "FunctionError.InitResourceExhausted",
                _ => "FunctionError.RuntimeInitError",
            },
            Self::InitTimeout(_) => "FunctionError.InitTimeout",
            Self::NoRuntimeImage(_) => "InvalidRuntime",
            Self::Image(error) if error.lambda_message().is_some() => "InvalidZipFileException",
            _ => "InternalError",
        }
    }
}
