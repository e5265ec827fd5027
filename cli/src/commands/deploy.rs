//! `hearth deploy`: package, upload, wait, and say what came of it.

use std::time::Instant;

use serde_json::json;

use crate::args::Deploy;
use crate::client::Client;
use crate::client::log::LogQuery;
use crate::deployment::{self, Deployed, DeploymentError};
use crate::failure::Failure;
use crate::function_name::{AliasName, FunctionName, FunctionRef};
use crate::output::{Output, Stream, Tone, count, size, span};
use crate::package::{self, Vendor};
use crate::project::Project;

/// How many lines of a function's log are shown when its init failed.
const LOG_LINES: usize = 20;

/// Runs the command.
pub(crate) fn run(client: &Client, deploy: &Deploy, output: Output) -> Result<(), Failure> {
    let start = Instant::now();
    let project = Project::load(&deploy.dir, &deploy.settings)?;
    // A package may take minutes to build: that nobody is there to take it is told before.
    client.is_there()?;
    output.progress(&format!("packaging {}", project.dir.display()));
    let package = package::build(&project, &Vendor::new())?;
    output.progress(&format!(
        "{}, {}",
        count(package.files, "file"),
        size(package.zip.len() as u64)
    ));
    let tell = |text: &str| output.progress(text);
    let (deployed, configuration) = match deployment::deploy(client, &project, &package, &tell) {
        Ok(done) => done,
        Err(error) => {
            if matches!(error, DeploymentError::Failed { .. }) {
                show_log(client, &project.name, output);
            }
            return Err(error.into());
        }
    };
    let version = match &deploy.alias {
        Some(alias) => Some(deployment::release(client, &project.name, alias, &tell)?),
        None => None,
    };
    let seconds = start.elapsed();
    if output.json {
        output.value(&json!({
            "version": version,
            "alias": deploy.alias.as_ref().map(AliasName::as_str),
            "function": configuration.function_name,
            "arn": configuration.function_arn,
            "change": deployed,
            "runtime": configuration.runtime,
            "handler": configuration.handler,
            "memory_mib": configuration.memory_size,
            "timeout_seconds": configuration.timeout,
            "files": package.files,
            "package_bytes": package.zip.len(),
            "code_sha256": package.sha256,
            "seconds": seconds.as_secs_f64(),
            "init_in_each_instance": configuration.hearth.init_in_each_instance,
        }))?;
    } else {
        let change = match deployed {
            Deployed::Created => "created",
            Deployed::Updated => "updated",
            Deployed::Unchanged => "unchanged",
        };
        output.line(&format!(
            "{} {} in {} ({}, {} MiB, {}, {})",
            output.paint(Stream::Stdout, Tone::Strong, &configuration.function_name),
            output.paint(Stream::Stdout, Tone::Good, change),
            span(seconds),
            configuration.runtime,
            configuration.memory_size,
            count(package.files, "file"),
            size(package.zip.len() as u64),
        ))?;
        if let Some(notice) = configuration.hearth.notice() {
            output.line(&output.foreign(Stream::Stdout, &notice))?;
        }
        if let (Some(version), Some(alias)) = (version, &deploy.alias) {
            output.line(&format!("{}:{alias} is version {version}", project.name))?;
        }
    }
    Ok(())
}

/// What the function wrote while it failed to come up, as far as there is anything.
pub(crate) fn show_log(client: &Client, name: &FunctionName, output: Output) {
    // The failure itself is what will be told; without a log it is told without one.
    let function = FunctionRef {
        name: name.clone(),
        qualifier: None,
    };
    let Ok(page) = client.log_page(LogQuery::all(&function), None) else {
        return;
    };
    let records = &page.records;
    for record in &records[records.len().saturating_sub(LOG_LINES)..] {
        output.note(&output.foreign(Stream::Stderr, &format!("  | {}", record.message)));
    }
}
