//! `hearthd`: the controller as a program.

use clap::Parser;
use hearth_controller::{LogSettings, Settings};
use tokio::signal::unix::{SignalKind, signal};

/// Hearth's controller: Lambda's API, functions in microVMs.
#[derive(Debug, Parser)]
#[command(name = "hearthd", version)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    log: LogSettings,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    arguments.log.start("info")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("the controller ends: it has received SIGTERM"),
                _ = interrupt.recv() => tracing::info!("the controller ends: it has received SIGINT"),
            }
        };
        hearth_controller::serve(arguments.settings, None, shutdown).await?;
        Ok(())
    })
}
