//! Creates or updates the function of a project, and waits until it serves. Only differences are sent:
//! an unchanged folder costs one request.

use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::client::function::{Change, Code, Configuration, Create, Variables};
use crate::client::{Client, ClientError};
use crate::function_name::{AliasName, FunctionName};
use crate::package::Package;
use crate::project::Project;

/// Lambda requires a role; Hearth has no use for one.
const ROLE: &str = "arn:aws:iam::000000000000:role/hearth";
/// How often the controller is asked whether a function is ready.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for a function: a kernel to boot, an init to end, several deploys ahead of it.
const PATIENCE: Duration = Duration::from_secs(900);

/// What a deployment did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Deployed {
    /// There was no such function.
    Created,
    /// Its code or settings are new.
    Updated,
    /// It was this already.
    Unchanged,
}

/// Why a function does not serve what was deployed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeploymentError {
    /// The controller, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The deploy failed in the controller.
    #[error("{name} did not come up: {reason}{}", if *serving { " (what was deployed before still serves)" } else { "" })]
    Failed {
        /// The function.
        name: FunctionName,
        /// The controller's code for the reason.
        code: String,
        /// The controller's words.
        reason: String,
        /// Whether an earlier version is still there.
        serving: bool,
        /// The newest record of the function's log when its deploy began, or 0.
        log_before: u64,
    },
    /// The function was deleted during its deploy.
    #[error("{name} was deleted while it was being deployed")]
    Deleted {
        /// The function.
        name: FunctionName,
    },
    /// The caller gave it up for a newer deploy.
    #[error("the deploy of {name} was given up for a newer one")]
    Outdated {
        /// The function.
        name: FunctionName,
    },
    /// The deploy exceeds the maximum time.
    #[error("{name} is not ready after {} s; `hearth ls` shows its state", PATIENCE.as_secs())]
    Slow {
        /// The function.
        name: FunctionName,
    },
}

impl DeploymentError {
    /// The same error, for `hearth dev`, which never answers from older code.
    pub(crate) fn without_older(mut self) -> Self {
        if let Self::Failed { serving, .. } = &mut self {
            *serving = false;
        }
        self
    }

    /// Whether the function's owner can mend it.
    pub(crate) fn is_callers(&self) -> bool {
        match self {
            Self::Client(error) => error.is_callers(),
            // Any other code is about the host: no image of the runtime, no sandbox, no space.
            Self::Failed { code, .. } => {
                code.starts_with("FunctionError") || code.starts_with("InvalidZipFile")
            }
            Self::Deleted { .. } => true,
            Self::Outdated { .. } | Self::Slow { .. } => false,
        }
    }
}

/// Observes a deploy.
pub(crate) trait Watch {
    /// Something begins.
    fn step(&self, text: &str);
    /// The controller has a change, which it goes on with whatever becomes of this process.
    fn accepted(&self, deployed: Deployed);
    /// What the controller does at the moment. With `false` the deploy is given up.
    fn phase(&self, text: &str) -> bool;
}

/// Deploys and waits until the function is active with it.
pub(crate) fn deploy(
    client: &Client,
    project: &Project,
    package: &Package,
    watch: &dyn Watch,
) -> Result<(Deployed, Configuration), DeploymentError> {
    let name = &project.name;
    let deadline = Instant::now() + PATIENCE;
    let current = match client.configuration(name) {
        Ok(_) => settled(client, name, deadline, watch)?,
        Err(error) if error.is_not_found() => {
            watch.step(&format!("creating {name}"));
            client.create(&create(project, package))?;
            watch.accepted(Deployed::Created);
            let created = settled(client, name, deadline, watch)?;
            let created = succeeded(name, created, 0)?;
            return Ok((Deployed::Created, created));
        }
        Err(error) => return Err(error.into()),
    };
    let change = change(project, &current);
    let new_code = current.code_sha256 != package.sha256 || current.is_failed();
    if !new_code && change.is_empty() {
        return Ok((Deployed::Unchanged, current));
    }
    let mut result = current;
    let log_before = client.newest_record(name).unwrap_or(0);
    if new_code {
        watch.step(&format!("updating the code of {name}"));
        let code = Code {
            zip_file: STANDARD.encode(&package.zip),
        };
        retry_conflicts(client, name, deadline, watch, || {
            client.update_code(name, &code)
        })?;
        watch.accepted(Deployed::Updated);
        result = settled(client, name, deadline, watch)?;
    }
    // New code may need the new settings to come up (another handler): its failure counts only if
    // there are none to follow.
    if !change.is_empty() {
        watch.step(&format!("updating the settings of {name}"));
        retry_conflicts(client, name, deadline, watch, || {
            client.update_configuration(name, &change)
        })?;
        watch.accepted(Deployed::Updated);
        result = settled(client, name, deadline, watch)?;
    }
    Ok((Deployed::Updated, succeeded(name, result, log_before)?))
}

/// Publishes what is deployed, and points an alias there once it serves. Returns the version.
pub(crate) fn release(
    client: &Client,
    name: &FunctionName,
    alias: &AliasName,
    watch: &dyn Watch,
) -> Result<String, DeploymentError> {
    let deadline = Instant::now() + PATIENCE;
    let log_before = client.newest_record(name).unwrap_or(0);
    let mut published = client.publish(name)?;
    let version = published.version.clone();
    watch.step(&format!("publishing version {version} of {name}"));
    while published.is_under_way() {
        if Instant::now() >= deadline {
            return Err(DeploymentError::Slow { name: name.clone() });
        }
        watch.phase(&doing(&published));
        sleep(POLL);
        published = client.version(name, &version)?;
    }
    succeeded(name, published, log_before)?;
    client.point(name, alias, &version)?;
    Ok(version)
}

fn create<'a>(project: &'a Project, package: &Package) -> Create<'a> {
    Create {
        function_name: project.name.as_str(),
        role: ROLE,
        runtime: &project.runtime,
        handler: &project.handler,
        code: Code {
            zip_file: STANDARD.encode(&package.zip),
        },
        memory_size: project.memory,
        timeout: project.timeout,
        environment: project
            .environment
            .as_ref()
            .map(|variables| Variables { variables }),
    }
}

/// What of the function has to become different.
fn change<'a>(project: &'a Project, current: &Configuration) -> Change<'a> {
    let differs = |wanted: Option<u32>, is: u32| wanted.filter(|wanted| *wanted != is);
    let environment = project
        .environment
        .as_ref()
        .filter(|variables| **variables != current.environment.variables);
    Change {
        runtime: Some(&*project.runtime).filter(|runtime| *runtime != current.runtime),
        handler: Some(&*project.handler).filter(|handler| *handler != current.handler),
        memory_size: differs(project.memory, current.memory_size),
        timeout: differs(project.timeout, current.timeout),
        environment: environment.map(|variables| Variables { variables }),
    }
}

/// Waits until nothing is being done to the function.
fn settled(
    client: &Client,
    name: &FunctionName,
    deadline: Instant,
    watch: &dyn Watch,
) -> Result<Configuration, DeploymentError> {
    let mut given_up = false;
    loop {
        let configuration = match client.configuration(name) {
            Err(error) if error.is_not_found() => {
                return Err(DeploymentError::Deleted { name: name.clone() });
            }
            other => other?,
        };
        if !configuration.is_under_way() {
            if given_up {
                return Err(DeploymentError::Outdated { name: name.clone() });
            }
            return Ok(configuration);
        }
        if Instant::now() >= deadline {
            return Err(DeploymentError::Slow { name: name.clone() });
        }
        if !watch.phase(&doing(&configuration)) && !given_up {
            // A controller that can't give it up goes on with it.
            given_up = client.give_up(name).is_ok();
        }
        sleep(POLL);
    }
}

/// In words.
fn doing(configuration: &Configuration) -> String {
    let name = &configuration.function_name;
    match configuration.phase() {
        Some(phase) => format!("{name}: {phase}"),
        None => format!("{name}: the controller deploys it"),
    }
}

/// Sends an update again if another update was in progress.
fn retry_conflicts(
    client: &Client,
    name: &FunctionName,
    deadline: Instant,
    watch: &dyn Watch,
    update: impl Fn() -> Result<Configuration, ClientError>,
) -> Result<(), DeploymentError> {
    loop {
        match update() {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() && Instant::now() < deadline => {
                sleep(POLL);
                settled(client, name, deadline, watch)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn succeeded(
    name: &FunctionName,
    configuration: Configuration,
    log_before: u64,
) -> Result<Configuration, DeploymentError> {
    if !configuration.is_failed() {
        return Ok(configuration);
    }
    let mut serving = false;
    let (reason, code) = if let Some(failed) = configuration.hearth.init_failed {
        (Some(failed.reason), Some(failed.reason_code))
    } else if configuration.state == "Failed" {
        (configuration.state_reason, configuration.state_reason_code)
    } else {
        serving = true;
        (
            configuration.last_update_status_reason,
            configuration.last_update_status_reason_code,
        )
    };
    Err(DeploymentError::Failed {
        name: name.clone(),
        code: code.unwrap_or_default(),
        reason: reason.unwrap_or_else(|| "the controller gives no reason; see its log".to_owned()),
        serving,
        log_before,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps all that it hears.
    #[derive(Default)]
    struct Heard {
        words: std::cell::RefCell<Vec<String>>,
        gives_up: bool,
    }

    impl Watch for Heard {
        fn step(&self, text: &str) {
            self.words.borrow_mut().push(text.to_owned());
        }

        fn accepted(&self, deployed: Deployed) {
            self.words.borrow_mut().push(format!("{deployed:?}"));
        }

        fn phase(&self, text: &str) -> bool {
            self.words.borrow_mut().push(text.to_owned());
            !self.gives_up
        }
    }

    /// A function that is pending when it is looked at first, and active after that.
    fn becomes_active() -> Client {
        let mut looks = 0;
        crate::client::testing::client_by(move |request| {
            if request.starts_with("DELETE ") {
                return request
                    .contains("/hearth/v1/functions/f/deploy")
                    .then(|| "{}".into());
            }
            looks += 1;
            let state = match looks {
                1 => {
                    r#""State":"Pending","StateReason":"The function is being created. Now: init of the function: 4 s""#
                }
                _ => r#""State":"Active""#,
            };
            Some(format!(
                r#"{{"FunctionName":"f","MemorySize":128,"Timeout":3,{state}}}"#
            ))
        })
    }

    /// After "creating f" nothing was printed until the deploy had ended.
    #[test]
    fn who_waits_hears_what_the_controller_does() {
        let heard = Heard::default();
        let name: FunctionName = "f".parse().unwrap();
        let deadline = Instant::now() + PATIENCE;
        settled(&becomes_active(), &name, deadline, &heard).unwrap();
        assert_eq!(heard.words.take(), ["f: init of the function: 4 s"]);
    }

    #[test]
    fn a_deploy_that_is_outdated_is_given_up() {
        let heard = Heard {
            gives_up: true,
            ..Heard::default()
        };
        let name: FunctionName = "f".parse().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let error = settled(&becomes_active(), &name, deadline, &heard).unwrap_err();
        assert!(matches!(error, DeploymentError::Outdated { .. }), "{error}");
    }

    fn project(environment: Option<&[(&str, &str)]>) -> Project {
        let pairs = environment.map(|pairs| {
            let owned = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            owned.collect()
        });
        Project {
            dir: "/d".into(),
            name: "f".parse().unwrap(),
            runtime: "python3.11".into(),
            handler: "app.handler".into(),
            memory: None,
            timeout: Some(3),
            environment: pairs,
            exclude: Vec::new(),
        }
    }

    fn configuration(extra: &str) -> Configuration {
        let text = format!(
            r#"{{"FunctionName":"f","Runtime":"python3.11","Handler":"app.handler","MemorySize":128,
                "Timeout":3,"Environment":{{"Variables":{{"AA":"1"}}}}{extra}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_is_not_named_stays_as_it_is() {
        assert!(change(&project(None), &configuration("")).is_empty());
        assert!(change(&project(Some(&[("AA", "1")])), &configuration("")).is_empty());
    }

    #[test]
    fn what_is_named_and_differs_is_changed() {
        let wanted = Project {
            handler: "main.handler".into(),
            memory: Some(256),
            ..project(Some(&[("AA", "2")]))
        };
        let change = change(&wanted, &configuration(""));
        assert_eq!(change.handler, Some("main.handler"));
        assert_eq!(change.memory_size, Some(256));
        assert!(change.environment.is_some());
        assert!(change.runtime.is_none() && change.timeout.is_none());
    }

    #[test]
    fn a_failed_init_is_the_owners_and_an_internal_error_the_platforms() {
        let name: FunctionName = "f".parse().unwrap();
        let failed = |code: &str| {
            let extra =
                format!(r#","State":"Failed","StateReason":"why","StateReasonCode":"{code}""#);
            succeeded(&name, configuration(&extra), 0).unwrap_err()
        };
        assert!(failed("FunctionError.InitTimeout").is_callers());
        assert!(failed("FunctionError").to_string().contains("why"));
        assert!(!failed("InternalError").is_callers());
        assert!(
            !failed("InvalidRuntime").is_callers(),
            "an image that is not built"
        );
    }

    /// The waiting deploy ended with "Function not found: arn:…".
    #[test]
    fn a_function_that_is_deleted_while_it_is_deployed_is_told_as_that() {
        let client = crate::client::testing::client_of(&[]);
        let name: FunctionName = "f".parse().unwrap();
        let error =
            settled(&client, &name, Instant::now() + PATIENCE, &Heard::default()).unwrap_err();
        assert!(error.is_callers());
        assert_eq!(
            error.to_string(),
            "f was deleted while it was being deployed"
        );
    }

    #[test]
    fn a_failed_update_says_that_the_older_one_serves() {
        let name: FunctionName = "f".parse().unwrap();
        let extra = r#","State":"Active","LastUpdateStatus":"Failed","LastUpdateStatusReason":"why",
            "LastUpdateStatusReasonCode":"FunctionError""#;
        let error = succeeded(&name, configuration(extra), 0).unwrap_err();
        assert!(error.to_string().contains("still serves"), "{error}");
        // Behind the gate of `hearth dev` it does not.
        assert!(!error.without_older().to_string().contains("still serves"));
    }
}
