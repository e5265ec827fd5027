//! `hearth backup` and `hearth restore`: work on the data directory of a controller on this machine, not
//! over its API.

use std::path::PathBuf;

use hearth_controller::Settings;
use hearth_controller::backup::{self as backups, Backup as Made};

use crate::args::Backup;
use crate::failure::Failure;
use crate::output::Output;

/// Runs `hearth backup`.
pub(crate) fn backup(of: &Backup, output: Output) -> Result<(), Failure> {
    let made = backups::backup(&data_dir(of)?, &of.folder)?;
    tell(&made, "backed up", output)?;
    for package in &made.missing_packages {
        output.note(&format!(
            "warning: the data directory lacks package {package}, so the backup does too"
        ));
    }
    if !made.has_key {
        output.note(
            "warning: there is no secrets.key in the data directory. Keep the controller's key file: \
             without it the environment variables can't be read",
        );
    }
    Ok(())
}

/// Runs `hearth restore`.
pub(crate) fn restore(of: &Backup, output: Output) -> Result<(), Failure> {
    let made = backups::restore(&of.folder, &data_dir(of)?)?;
    tell(&made, "restored", output)
}

fn tell(made: &Made, done: &str, output: Output) -> Result<(), Failure> {
    if output.json {
        output.value(made)?;
    } else {
        output.line(&format!(
            "{done}: {} functions, {} packages, {} events",
            made.functions, made.packages, made.events
        ))?;
    }
    Ok(())
}

fn data_dir(of: &Backup) -> Result<PathBuf, Failure> {
    if let Some(dir) = &of.data_dir {
        return Ok(dir.clone());
    }
    let settings = |error: String| Failure::Settings(error);
    Settings::defaults()
        .map_err(|error| settings(error.to_string()))?
        .data_dir()
        .map_err(|error| settings(error.to_string()))
}
