//! Deploys one state of the folder after another, on its own thread, and reports each outcome to the gate.

use std::cell::Cell;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::fingerprint::{Fingerprint, Seen, look};
use super::gate::Gate;
use crate::args::{Dev, Settings};
use crate::check::{self, CheckError};
use crate::client::Client;
use crate::deployment::{self, Deployed, DeploymentError, Watch};
use crate::function_name::FunctionName;
use crate::init_log;
use crate::output::{Output, Stream, Tone, count, size, span};
use crate::package::{self, Package, PackageError, Selection, Vendor};
use crate::progress::Progress;
use crate::project::{Project, ProjectError};

/// How soon a folder that has just changed is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The files that go into the package; shared by the deployer, the requests and the watcher.
pub(super) type Files = Arc<RwLock<Selection>>;

/// State of the deployer's thread.
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

/// Why a state of the folder is not deployed.
#[derive(Debug, thiserror::Error)]
enum NotDeployed {
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
}

impl NotDeployed {
    /// The error, and what to do about it, on one line.
    fn told(&self) -> String {
        let hint = match self {
            Self::Project(error) => error.hint(),
            Self::Check(error) => error.hint(),
            Self::Package(_) | Self::Deployment(_) => None,
        };
        match hint {
            Some(hint) => format!("{self} (hint: {hint})"),
            None => self.to_string(),
        }
    }
}

/// Ends a deploy when the folder is not in the state any more that is being deployed.
struct Watcher<'a> {
    progress: Progress,
    gate: &'a Gate,
    files: &'a Files,
    state: Fingerprint,
    /// How often the gate had been asked when the folder was looked at last.
    looked: Cell<u64>,
}

impl Watch for Watcher<'_> {
    fn step(&self, _: &str) {}

    fn accepted(&self, _: Deployed) {}

    fn phase(&self, text: &str) -> bool {
        self.progress.phase(text);
        // A runtime that boots is needed by the next deploy too.
        if text.contains(": booting ") {
            return true;
        }
        let asked = self.gate.asked();
        self.looked.replace(asked) == asked || state_of(self.files).fingerprint == self.state
    }
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
                .map_err(NotDeployed::from)
                .and_then(|()| Ok(package::build(&self.project, &self.vendor)?));
            if state_of(&self.files).fingerprint != now {
                // It changed while it was packed, and nothing is known of it: once more.
                self.gate.changed();
                continue;
            }
            let result = package.and_then(|package| self.deploy(&package, now, start));
            if let Err(NotDeployed::Deployment(DeploymentError::Outdated { .. })) = &result {
                self.output
                    .note(&self.quiet("a file changed: deploying again"));
                self.gate.changed();
                continue;
            }
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

    fn deploy(
        &self,
        package: &Package,
        state: Fingerprint,
        start: Instant,
    ) -> Result<(), NotDeployed> {
        check::check(&self.client, &self.project, package)?;
        let name = &self.project.name;
        let files = format!(
            "{}, {}",
            count(package.files, "file"),
            size(package.zip.len() as u64)
        );
        self.output
            .note(&self.quiet(&format!("deploying {name} ({files})")));
        let watch = Watcher {
            progress: Progress::in_lines(self.output),
            gate: &self.gate,
            files: &self.files,
            state,
            looked: Cell::new(self.gate.asked()),
        };
        let (deployed, configuration) =
            deployment::deploy(&self.client, &self.project, package, &watch)
                .inspect_err(|error| init_log::show(&self.client, error, self.output))
                .map_err(DeploymentError::without_older)?;
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
    fn told(&self, failure: &NotDeployed) -> String {
        let why = failure.told();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The deploy of older code ran to its end, and requests waited for it and then for the next one.
    #[test]
    fn a_newer_save_ends_the_deploy_of_older_code_but_not_the_boot_of_a_runtime() {
        let dir = tempfile::Builder::new().prefix("fn").tempdir().unwrap();
        let file = dir.path().join("lambda_function.py");
        std::fs::write(&file, "one").unwrap();
        let flags = Settings {
            name: Some("f".parse().unwrap()),
            ..Settings::default()
        };
        let project = Project::load(dir.path(), &flags).unwrap();
        let files = Arc::new(RwLock::new(Selection::of(&project)));
        let gate = Gate::new();
        let watch = Watcher {
            progress: Progress::in_lines(Output::new(true)),
            gate: &gate,
            files: &files,
            state: state_of(&files).fingerprint,
            looked: Cell::new(gate.asked()),
        };
        assert!(watch.phase("f: init of the function: 1 s"));
        gate.changed();
        assert!(
            watch.phase("f: init of the function: 2 s"),
            "an event without a change"
        );
        std::fs::write(&file, "other").unwrap();
        gate.changed();
        assert!(watch.phase("f: booting python3.11, once: 1 s"));
        assert!(!watch.phase("f: init of the function: 3 s"));
    }
}
