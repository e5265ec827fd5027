//! Why a deploy failed, for the owner of the function and for the operator.

use std::path::PathBuf;
use std::time::Duration;

use crate::function::SealError;
use crate::instance::{LaunchError, VmError};

/// Why a version could not be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    /// The function's own doing.
    #[error("{kind}: {message}")]
    Init {
        /// As the runtime or the agent named it.
        kind: String,
        /// What it said about it.
        message: String,
    },
    /// Init went on for too long.
    #[error("Runtime.InitTimeout: init did not end within {} seconds", .0.as_secs())]
    InitTimeout(Duration),
    /// No image of this runtime was built.
    #[error("there is no image of runtime {0}: run `hearth-rootfs runtime {0}` (or `make images`)")]
    NoRuntimeImage(&'static str),
    /// No kernel was built.
    #[error("there is no guest kernel: run `hearth-rootfs kernel` (or `make images`)")]
    NoKernel,
    /// The artefact cache.
    #[error(transparent)]
    Cache(#[from] hearth_rootfs::Error),
    /// The package's image.
    #[error(transparent)]
    Image(#[from] hearth_rootfs::function::FunctionError),
    /// The package store.
    #[error("package store: {0}")]
    Packages(#[from] object_store::Error),
    /// No sandbox.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The sandbox or its guest failed.
    #[error("{doing}: {source}")]
    Vm {
        /// What was going on.
        doing: &'static str,
        /// What came in between.
        source: VmError,
    },
    /// A file.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// A file is not what it was made as.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The controller is ending, or the function was deleted or deployed anew.
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
