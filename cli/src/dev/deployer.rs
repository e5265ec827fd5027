//! Deploys one state of the folder after another, on a thread of its own, and tells the gate.

use std::path::Path;
use std::sync::{Arc, RwLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::args::{Dev, Settings};
use crate::client::Client;
use crate::commands::deploy::show_log;
use crate::deployment::{self, Deployed, DeploymentError};
use crate::failure::Failure;
use crate::function_name::FunctionName;
use crate::output::{Output, Stream, Tone, count, size, span};
use crate::package::{self, Package, Selection, Vendor};
use crate::project::{Project, ProjectError};

use super::fingerprint::{Fingerprint, Seen, look};
use super::gate::Gate;

/// How soon a folder that has just changed is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Which files count, for everybody who looks at the folder.
pub(super) type Files = Arc<RwLock<Selection>>;

/// The thread's belongings.
#[derive(Debug)]
pub(super) struct Deployer {
    client: Client,
    /// As given, with the name fixed: a server serves one function.
    flags: Settings,
    project: Project,
    files: Files,
    vendor: Vendor,
    gate: Arc<Gate>,
    output: Output,
}

/// The state that `files` is in now.
pub(super) fn state_of(files: &Files) -> Seen {
    let selection = files
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .clone();
    look(&selection)
}

impl Deployer {
    /// For the folder of `dev`.
    pub(super) fn new(
        client: Client,
        dev: &Dev,
        gate: Arc<Gate>,
        output: Output,
    ) -> Result<Self, ProjectError> {
        let project = Project::load(&dev.dir, &dev.settings)?;
        let mut flags = dev.settings.clone();
        flags.name = Some(project.name.clone());
        Ok(Self {
            client,
            flags,
            files: Arc::new(RwLock::new(Selection::of(&project))),
            project,
            vendor: Vendor::new(),
            gate,
            output,
        })
    }

    /// The function's name.
    pub(super) fn name(&self) -> &FunctionName {
        &self.project.name
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.project.dir
    }

    /// Which files count.
    pub(super) fn files(&self) -> Files {
        self.files.clone()
    }

    /// Works until the gate is closed.
    pub(super) fn run(mut self) {
        while self.gate.wait_until_asked() {
            // The description says which files count: it is read before they are looked at.
            let described = self.describe();
            let now = self.settled();
            if self.gate.is_known(now) {
                self.gate.settle_unchanged();
                continue;
            }
            let start = Instant::now();
            let package = described
                .and_then(|()| self.describe())
                .map_err(Failure::from)
                .and_then(|()| Ok(package::build(&self.project, &self.vendor)?));
            if state_of(&self.files).fingerprint != now {
                // It changed while it was packed, and nothing is known of it: once more.
                self.gate.changed();
                continue;
            }
            let result = package.and_then(|package| self.deploy(&package, start));
            self.gate
                .settle(now, result.map_err(|failure| self.told(&failure)));
        }
    }

    /// Reads the description again.
    fn describe(&mut self) -> Result<(), ProjectError> {
        self.project = Project::load(&self.project.dir, &self.flags)?;
        let mut files = self
            .files
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *files = Selection::of(&self.project);
        Ok(())
    }

    /// Waits until the folder has been still for a moment; which state it is in then.
    fn settled(&self) -> Fingerprint {
        loop {
            let seen = state_of(&self.files);
            if seen.is_settled() {
                return seen.fingerprint;
            }
            sleep(LOOK_AGAIN);
        }
    }

    fn deploy(&self, package: &Package, start: Instant) -> Result<(), Failure> {
        let name = &self.project.name;
        let files = format!(
            "{}, {}",
            count(package.files, "file"),
            size(package.zip.len() as u64)
        );
        self.output
            .note(&self.quiet(&format!("deploying {name} ({files})")));
        let (deployed, configuration) =
            deployment::deploy(&self.client, &self.project, package, &|_| {}).inspect_err(
                |error| {
                    if matches!(error, DeploymentError::Failed { .. }) {
                        show_log(&self.client, name, self.output);
                    }
                },
            )?;
        let what = match deployed {
            Deployed::Created | Deployed::Updated => "deployed",
            Deployed::Unchanged => "unchanged",
        };
        let what = self.output.paint(Stream::Stderr, Tone::Good, what);
        self.output
            .note(&format!("{what} in {}", span(start.elapsed())));
        if let Some(notice) = configuration.hearth.notice() {
            let notice = self.output.foreign(Stream::Stderr, &notice);
            self.output.note(&notice);
        }
        Ok(())
    }

    fn quiet(&self, text: &str) -> String {
        self.output.paint(Stream::Stderr, Tone::Quiet, text)
    }

    /// Says why there is no deploy, and gives it on for the requests that wait.
    fn told(&self, failure: &Failure) -> String {
        let why = failure.to_string();
        let label = self
            .output
            .paint(Stream::Stderr, Tone::Bad, "not deployed:");
        self.output.note(&format!(
            "{label} {}",
            self.output.foreign(Stream::Stderr, &why)
        ));
        why
    }
}
