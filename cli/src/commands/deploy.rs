//! `hearth deploy`: package, upload, wait, and say what came of it.

use std::cell::OnceCell;
use std::time::Instant;

use serde_json::json;

use crate::args::Deploy;
use crate::check::{self, CheckError};
use crate::client::Client;
use crate::client::log::{LogQuery, LogRecord};
use crate::deployment::{self, Deployed, DeploymentError, Watch};
use crate::failure::Failure;
use crate::function_name::{AliasName, FunctionName, FunctionRef};
use crate::interrupt::LastWords;
use crate::output::{Output, Stream, Tone, count, size, span};
use crate::package::{self, Package, Vendor};
use crate::progress::Progress;
use crate::project::Project;

/// How many lines of a function's log are shown when its init failed.
const LOG_LINES: usize = 20;

/// Runs the command.
pub(crate) fn run(client: &Client, deploy: &Deploy, output: Output) -> Result<(), Failure> {
    let start = Instant::now();
    let project = Project::load(&deploy.dir, &deploy.settings)?;
    // A package may take minutes to build: that nobody is there to take it is told before.
    client.is_there()?;
    let watch = Watcher::new(&project.name, output);
    watch.step(&format!("packaging {}", project.dir.display()));
    let vendor = Vendor::new();
    let package = package::build(&project, &vendor)?;
    check_code(client, &project, &package)?;
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
        show_log(client, error, output);
    })?;
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
        if let (Some(version), Some(alias)) = (version, &deploy.alias) {
            output.line(&format!("{}:{alias} is version {version}", project.name))?;
        }
    }
    Ok(())
}

/// Refuses code that can't come up. What a layer may bring is not missed if the function has layers.
pub(crate) fn check_code(
    client: &Client,
    project: &Project,
    package: &Package,
) -> Result<(), CheckError> {
    match check::check(project, package) {
        Err(error) if error.may_be_in_a_layer() => {
            let current = client.configuration(&project.name);
            if current.is_ok_and(|function| !function.layers.is_empty()) {
                return Ok(());
            }
            Err(error)
        }
        other => other,
    }
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

/// What becomes of a deploy that nobody waits for any more.
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

/// What the function wrote while its deploy failed, as far as there is anything.
pub(crate) fn show_log(client: &Client, error: &DeploymentError, output: Output) {
    let DeploymentError::Failed {
        name, log_before, ..
    } = error
    else {
        return;
    };
    let function = FunctionRef {
        name: name.clone(),
        qualifier: None,
        arn: None,
    };
    // The failure itself is what will be told; without a log it is told without one.
    let Ok(page) = client.log_page(LogQuery::all(&function), Some(*log_before)) else {
        return;
    };
    let lines = init_lines(&page.records);
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        output.note(&output.foreign(Stream::Stderr, &format!("  | {line}")));
    }
}

/// The lines of an init: not those of invocations, which may go on beside it, nor what the runtime's
/// client says about updates of the runtime, which can't happen here.
fn init_lines(records: &[LogRecord]) -> Vec<&str> {
    const ADVICE: &str = "LAMBDA_WARNING: Unhandled exception.";
    const END_OF_ADVICE: &str = "runtimes-update.html";
    let of_init = records.iter().filter(|record| record.request_id.is_none());
    // The runtime's client separates the lines of one record by carriage returns.
    let lines = of_init.flat_map(|record| record.message.split(['\n', '\r']));
    let mut advice = false;
    let mut kept = Vec::new();
    for line in lines.map(str::trim_end).filter(|line| !line.is_empty()) {
        advice |= line.contains(ADVICE);
        // Whatever became of its last line: it ends where the error begins.
        advice &= !line.contains("[ERROR]");
        if !advice {
            kept.push(line);
        }
        advice &= !line.contains(END_OF_ADVICE);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(request_id: Option<&str>, message: &str) -> LogRecord {
        LogRecord {
            seq: 1,
            time: String::new(),
            version: "$LATEST".into(),
            request_id: request_id.map(str::to_owned),
            kind: "function".into(),
            message: message.into(),
        }
    }

    /// The last lines of the whole log were shown: START and END of invocations of minutes ago.
    #[test]
    fn a_failed_deploy_shows_its_own_log_line_by_line_without_advice_that_does_not_apply() {
        let records = [
            record(Some("r"), "START RequestId: r"),
            record(None, "loading"),
            record(
                None,
                "[WARNING] LAMBDA_WARNING: Unhandled exception. The most likely cause is …\r\
                 For more information, see https://docs/runtimes-update.html\r",
            ),
            record(
                None,
                "[ERROR] boom\rTraceback (most recent call last):\r  File \"app.py\"",
            ),
        ];
        assert_eq!(
            init_lines(&records),
            [
                "loading",
                "[ERROR] boom",
                "Traceback (most recent call last):",
                "  File \"app.py\"",
            ]
        );
        let cut = [
            record(None, "LAMBDA_WARNING: Unhandled exception."),
            record(None, "[ERROR] x"),
        ];
        assert_eq!(init_lines(&cut), ["[ERROR] x"]);
    }

    #[test]
    fn who_interrupts_a_deploy_is_told_what_goes_on() {
        let name: FunctionName = "f".parse().unwrap();
        assert!(going_on(&name, Deployed::Created).contains("`hearth rm f` ends it"));
        // Removing the function would remove what serves as well.
        assert!(!going_on(&name, Deployed::Updated).contains("hearth rm"));
    }
}
