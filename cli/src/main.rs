//! `hearth`, the command line. Uses a controller's HTTP API; `serve` and `dev` start a controller in this
//! process.

mod args;
mod check;
mod client;
mod commands;
mod deployment;
mod dev;
mod doctor;
mod event;
mod failure;
mod function_name;
mod init_log;
mod output;
mod package;
mod progress;
mod project;
mod signals;
mod variable;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::client::{Client, signing};
use crate::failure::Failure;
use crate::output::{Output, Stream, Tone};

fn main() -> ExitCode {
    let cli = match Cli::try_parse().and_then(|cli| cli.check().map(|()| cli)) {
        Ok(cli) => cli,
        Err(help_or_error) => {
            // Help that can't be written, as to a closed pipe, is dropped.
            let _ = help_or_error.print();
            return ExitCode::from(if help_or_error.use_stderr() {
                failure::YOURS
            } else {
                0
            });
        }
    };
    let output = Output::new(cli.json());
    match run(cli, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure, output);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: Cli, output: Output) -> Result<(), Failure> {
    let endpoint = cli.endpoint();
    let client =
        || Client::new(&endpoint).map(|client| client.signing(signing::from_environment()));
    match cli.command {
        Command::Serve(serve) => commands::serve::run(serve.settings, serve.log),
        Command::Deploy(deploy) => commands::deploy::run(&client()?, &deploy, output),
        Command::Invoke(invoke) => commands::invoke::run(&client()?, &invoke, output),
        Command::Logs(logs) => commands::logs::run(&client()?, &logs, output),
        Command::Ls(ls) => commands::ls::run(&client()?, &ls, output),
        Command::Rm(rm) => commands::rm::run(&client()?, &rm, output),
        Command::Dev(dev) => Ok(dev::run(dev, output)?),
        Command::Keys(keys) => commands::keys::run(&keys, output),
        Command::Backup(of) => commands::backup::backup(&of, output),
        Command::Restore(of) => commands::backup::restore(&of, output),
        Command::Doctor(doctor) => doctor::run(&client()?, &doctor, output),
    }
}

fn tell(failure: &Failure, output: Output) {
    if failure.is_told() {
        return;
    }
    if output.json {
        let side = if failure.exit_code() == failure::YOURS {
            "yours"
        } else {
            "platform"
        };
        let mut error = serde_json::json!({ "side": side, "message": failure.to_string() });
        if let Some(hint) = failure.hint() {
            error["hint"] = hint.into();
        }
        if let Some((status, code, request_id)) = failure.refusal() {
            error["status"] = status.into();
            error["code"] = code.into();
            error["request_id"] = request_id.into();
        }
        output.note(&serde_json::json!({ "error": error }).to_string());
    } else {
        let label = output.paint(Stream::Stderr, Tone::Bad, "error:");
        output.note(&format!(
            "{label} {}",
            output.foreign(Stream::Stderr, &failure.to_string())
        ));
        if let Some(hint) = failure.hint() {
            let label = output.paint(Stream::Stderr, Tone::Strong, "hint:");
            output.note(&format!(
                "{label} {}",
                output.foreign(Stream::Stderr, &hint)
            ));
        }
    }
}
