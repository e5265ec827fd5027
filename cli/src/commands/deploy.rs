//! `hearth deploy`: package, upload, wait, and say what came of it.

use std::cell::OnceCell;
use std::time::Instant;

use serde_json::json;

use crate::args::Deploy;
use crate::client::Client;
use crate::deployment::{self, Deployed, Watch};
use crate::failure::Failure;
use crate::function_name::{AliasName, FunctionName};
use crate::output::{Output, Stream, Tone, count, size, span};
use crate::package::{self, Vendor};
use crate::progress::Progress;
use crate::project::Project;
use crate::signals::LastWords;
use crate::{check, init_log};

/// Runs the command.
pub(crate) fn run(client: &Client, deploy: &Deploy, output: Output) -> Result<(), Failure> {
    let start = Instant::now();
    let project = Project::load(&deploy.dir, &deploy.settings)?;
    // A package may take minutes to build: a missing controller is reported before.
    client.is_there()?;
    let watch = Watcher::new(&project.name, output);
    watch.step(&format!("packaging {}", project.dir.display()));
    let vendor = Vendor::new();
    let package = package::build(&project, &vendor)?;
    if !output.json {
        for remark in &package.remarks {
            let label = output.paint(Stream::Stderr, Tone::Careful, "warning:");
            let remark = output.foreign(Stream::Stderr, remark);
            output.note(&format!("{label} {remark}"));
        }
    }
    check::check(client, &project, &package)?;
    watch.step(&format!(
        "{}, {}",
        count(package.files, "file"),
        size(package.zip.len() as u64)
    ));
    let released = deployment::deploy(client, &project, &package, &watch).and_then(|done| {
        let release = |alias| deployment::release(client, &project.name, alias, &watch);
        Ok((done, deploy.alias.as_ref().map(release).transpose()?))
    });
    watch.progress.clear();
    let ((deployed, configuration), version) = released.inspect_err(|error| {
        init_log::show(client, error, output);
    })?;
    let seconds = start.elapsed();
    // Of a function that was not changed, it would be said of an earlier deploy.
    let reused = deployed == Deployed::Updated && configuration.hearth.snapshot_reused;
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
            "snapshot_reused": reused,
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
            output.foreign(Stream::Stdout, &configuration.runtime),
            configuration.memory_size,
            count(package.files, "file"),
            size(package.zip.len() as u64),
        ))?;
        if reused {
            output.line("init did not run: there was a snapshot of this code and configuration")?;
        }
        if let Some(notice) = configuration.hearth.notice() {
            output.line(&output.foreign(Stream::Stdout, &notice))?;
        }
        if let (Some(version), Some(alias)) = (version, &deploy.alias) {
            output.line(&format!("{}:{alias} is version {version}", project.name))?;
        }
    }
    Ok(())
}

/// Tells a person at the terminal, and has last words for Ctrl-C from the first accepted change on.
#[derive(Debug)]
struct Watcher {
    name: FunctionName,
    output: Output,
    progress: Progress,
    last_words: OnceCell<LastWords>,
}

impl Watcher {
    fn new(name: &FunctionName, output: Output) -> Self {
        Self {
            name: name.clone(),
            output,
            progress: Progress::new(output),
            last_words: OnceCell::new(),
        }
    }
}

impl Watch for Watcher {
    fn step(&self, text: &str) {
        self.progress.step(text);
    }

    fn accepted(&self, deployed: Deployed) {
        let text = going_on(&self.name, deployed);
        self.last_words
            .get_or_init(|| LastWords::new(text.clone(), self.output))
            .set(text);
    }

    fn phase(&self, text: &str) -> bool {
        self.progress.phase(text);
        true
    }
}

/// What the controller does after Ctrl-C.
fn going_on(name: &FunctionName, deployed: Deployed) -> String {
    match deployed {
        Deployed::Created => format!(
            "the deploy of {name} goes on in the controller; `hearth ls` shows it, `hearth rm {name}` \
             ends it"
        ),
        Deployed::Updated | Deployed::Unchanged => format!(
            "the update of {name} goes on in the controller; `hearth ls` shows it, and until it is \
             done what was deployed before serves"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_interrupts_a_deploy_is_told_what_goes_on() {
        let name: FunctionName = "f".parse().unwrap();
        assert!(going_on(&name, Deployed::Created).contains("`hearth rm f` ends it"));
        // Removing the function would remove what serves as well.
        assert!(!going_on(&name, Deployed::Updated).contains("hearth rm"));
    }
}
