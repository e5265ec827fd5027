//! `hearth serve`: the controller in this process, until it is told to end.

use hearth_controller::{LogSettings, Settings};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

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

/// Completes at SIGTERM or SIGINT. From its creation on neither ends the process by itself.
pub(crate) fn told_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
