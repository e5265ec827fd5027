//! `hearthd`: the controller as a program.

use clap::Parser;
use hearth_controller::Settings;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Hearth's controller: Lambda's API, functions in microVMs.
#[derive(Debug, Parser)]
#[command(name = "hearthd", version)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,

    /// Write the log as JSON lines.
    #[arg(long)]
    log_json: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if arguments.log_json {
        log.json().init();
    } else {
        log.init();
    }
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
