//! Every way a command fails, and whose error it is: that decides the exit code.

use std::io;

use hearth_controller::auth::KeysError;
use hearth_controller::backup::BackupError;
use hearth_controller::{LogError, ServeError};

use crate::check::CheckError;
use crate::client::ClientError;
use crate::deployment::DeploymentError;
use crate::dev::DevError;
use crate::event::EventError;
use crate::package::PackageError;
use crate::project::ProjectError;

/// Exit code of an error in the function, its folder or the arguments.
pub(crate) const YOURS: u8 = 1;
/// Exit code of an error of Hearth or this machine.
pub(crate) const PLATFORMS: u8 = 3;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The controller, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The folder's description.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// The folder's content.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The function's code.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The event to invoke with.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The function did not come up.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// The development server.
    #[error(transparent)]
    Dev(#[from] DevError),
    /// The controller in this process.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The access keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A backup or its restoration.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The log's settings.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Settings from the environment.
    #[error("{0}")]
    Settings(String),
    /// No threads.
    #[error("can't start the async runtime: {0}")]
    Runtime(io::Error),
    /// Standard output is closed or full.
    #[error("can't write to standard output: {0}")]
    Stdout(#[from] io::Error),
    /// The function failed; its error was the result.
    #[error("the function failed")]
    Function,
    /// `hearth doctor` found something; its report says what.
    #[error("this machine can't run Hearth yet")]
    Unfit,
}

impl Failure {
    /// Whose error it is.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) if error.is_callers() => YOURS,
            Self::Deployment(error) if error.is_callers() => YOURS,
            Self::Dev(error) if error.is_callers() => YOURS,
            Self::Keys(error) if error.is_callers() => YOURS,
            Self::Backup(
                BackupError::NoRegistry(_)
                | BackupError::NotEmpty(_)
                | BackupError::NoBackup(_)
                | BackupError::InUse(_),
            ) => YOURS,
            Self::Settings(_) | Self::Log(_) => YOURS,
            // `hearth logs f | head` is done when head is.
            Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Project(_) | Self::Package(_) | Self::Check(_) => YOURS,
            Self::Event(_) | Self::Function => YOURS,
            Self::Client(_)
            | Self::Deployment(_)
            | Self::Dev(_)
            | Self::Serve(_)
            | Self::Keys(_)
            | Self::Backup(_)
            | Self::Runtime(_)
            | Self::Stdout(_)
            | Self::Unfit => PLATFORMS,
        }
    }

    /// What to do about it, where the error itself does not say.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Client(error) | Self::Deployment(DeploymentError::Client(error)) => error.hint(),
            Self::Project(error) => error.hint(),
            Self::Check(error) => error.hint(),
            Self::Dev(error) => error.hint(),
            _ => None,
        }
    }

    /// HTTP status, kind of error and request id, if a controller refused.
    pub(crate) fn refusal(&self) -> Option<(u16, &str, &str)> {
        match self {
            Self::Client(error) | Self::Deployment(DeploymentError::Client(error)) => {
                error.refusal()
            }
            _ => None,
        }
    }

    /// Whether the command has already said all there is to say.
    pub(crate) fn is_told(&self) -> bool {
        matches!(self, Self::Function | Self::Unfit) || self.exit_code() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_enough_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit_code(), 0);
        let failure = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(failure.exit_code(), PLATFORMS);
    }

    #[test]
    fn a_functions_error_is_yours_and_an_unfit_machine_the_platforms() {
        assert_eq!(Failure::Function.exit_code(), YOURS);
        assert_eq!(Failure::Unfit.exit_code(), PLATFORMS);
    }
}
