//! `hearth doctor`: looks at what Hearth needs of this machine, one check after another, and says
//! what to do about what is missing. It changes nothing.

mod artefacts;
mod cgroups;
mod controller;
mod host;
mod jail;
mod kvm;
mod programs;
mod records;
mod space;

use hearth_controller::Settings;
use serde::Serialize;
use serde_json::json;

use crate::args::Doctor;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, Stream, Tone};

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Hearth works, but less well or not for everything.
    Warn,
    /// Hearth does not work.
    Fail,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was seen.
    found: String,
    /// What to do, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Warn,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(name, found, advice)
        }
    }
}

/// Runs the command.
pub(crate) fn run(client: &Client, doctor: &Doctor, output: Output) -> Result<(), Failure> {
    let checks = look(client, doctor);
    let worst = checks
        .iter()
        .map(|check| check.verdict)
        .max()
        .unwrap_or(Verdict::Ok);
    if output.json {
        output.value(&json!({ "verdict": worst, "checks": checks }))?;
    } else {
        for check in &checks {
            output.line(&rendered(check, output))?;
        }
    }
    match worst {
        Verdict::Fail => Err(Failure::Unfit),
        Verdict::Ok | Verdict::Warn => Ok(()),
    }
}

fn look(client: &Client, doctor: &Doctor) -> Vec<Check> {
    let mut checks = vec![
        kvm::check(),
        host::kind(),
        host::memory(),
        host::open_files(),
        cgroups::check(),
    ];
    match Settings::defaults() {
        Ok(mut settings) => {
            settings.data_dir = doctor.data_dir.clone().or(settings.data_dir);
            settings.cache_dir = doctor.cache_dir.clone().or(settings.cache_dir);
            // Where it is not to be found, the controller says so as well.
            checks.extend(settings.sandbox_bin().ok().map(|bin| jail::check(&bin)));
            checks.extend(artefacts::check(&settings));
            checks.extend(space::check(&settings));
            checks.extend(records::check(&settings));
        }
        Err(error) => checks.push(Check::fail(
            "settings",
            error.to_string(),
            "correct the environment variables whose names begin with HEARTH_",
        )),
    }
    checks.extend(programs::check());
    checks.push(controller::check(client));
    checks
}

fn rendered(check: &Check, output: Output) -> String {
    let (word, tone) = match check.verdict {
        Verdict::Ok => ("ok  ", Tone::Good),
        Verdict::Warn => ("warn", Tone::Careful),
        Verdict::Fail => ("fail", Tone::Bad),
    };
    let word = output.paint(Stream::Stdout, tone, word);
    let found = output.foreign(Stream::Stdout, &check.found);
    let mut text = format!("{word}  {:<14} {found}", check.name);
    if let Some(advice) = &check.advice {
        let advice = output.foreign(Stream::Stdout, advice);
        text.push_str(&format!("\n                     → {advice}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_is_not_well_says_what_to_do() {
        let text = rendered(
            &Check::fail("kvm", "no /dev/kvm", "load it"),
            Output::new(false),
        );
        assert!(
            text.contains("fail") && text.contains("no /dev/kvm") && text.contains("→ load it")
        );
        assert!(!rendered(&Check::ok("kvm", "there"), Output::new(false)).contains('→'));
    }

    #[test]
    fn the_worst_verdict_counts() {
        assert!(Verdict::Fail > Verdict::Warn && Verdict::Warn > Verdict::Ok);
    }

    #[test]
    fn programs_get_verdicts_in_lower_case() {
        let text = serde_json::to_string(&Check::warn("n", "f", "a")).unwrap();
        assert_eq!(
            text,
            r#"{"name":"n","verdict":"warn","found":"f","advice":"a"}"#
        );
    }
}
