//! `hearth serve`: the controller in this process, until it is told to end.

use hearth_controller::Settings;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Runs the command.
pub(crate) fn run(settings: Settings, json: bool) -> Result<(), Failure> {
    log_to_stderr("info", json);
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::Runtime)?;
    runtime.block_on(async {
        let end = told_to_end().map_err(Failure::Runtime)?;
        hearth_controller::serve(settings, None, end).await?;
        Ok(())
    })
}

/// Sends the controller's log to standard error; `RUST_LOG` wins over `level`.
pub(crate) fn log_to_stderr(level: &str, json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()) && !no_colour())
        .with_writer(std::io::stderr);
    if json {
        log.json().init();
    } else {
        log.init();
    }
}

fn no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
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
