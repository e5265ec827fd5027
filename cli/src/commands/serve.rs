//! `hearth serve`: runs the controller in this process until SIGINT or SIGTERM.

use hearth_controller::{LogSettings, Settings};

use crate::failure::Failure;
use crate::signals::told_to_end;

/// Runs the command.
pub(crate) fn run(settings: Settings, log: LogSettings) -> Result<(), Failure> {
    log.start("info")?;
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::Runtime)?;
    runtime.block_on(async {
        let end = told_to_end().map_err(Failure::Runtime)?;
        hearth_controller::serve(settings, None, end).await?;
        Ok(())
    })
}
