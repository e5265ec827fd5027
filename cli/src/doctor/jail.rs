//! How far can sandboxes be locked up here? The sandbox program itself is asked: it locks itself up
//! as it would for a microVM, says what it could not have, and ends.

use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;
use serde::Deserialize;

use super::Check;

const NAME: &str = "jail";
/// The last user id of the range that controllers use: no account has it. The process ends at once.
const PROBE_USER: &str = "2147483647";

#[derive(Debug, Deserialize)]
struct Report {
    missing: Vec<Missing>,
}

#[derive(Debug, Deserialize)]
struct Missing {
    part: String,
    why: String,
}

/// Asks the sandbox program.
pub(super) fn check(sandbox: &Path) -> Check {
    let mut command = Command::new(sandbox);
    command.arg("--report-jail");
    if geteuid().is_root() {
        command.args(["--uid", PROBE_USER, "--gid", PROBE_USER]);
    }
    match command.output() {
        Ok(output) if output.status.success() => judge(&output.stdout),
        Ok(output) => Check::fail(
            NAME,
            format!("{} ended with {}", sandbox.display(), output.status),
            "run it by hand with --report-jail to see why",
        ),
        Err(error) => Check::fail(
            NAME,
            format!("{}: {error}", sandbox.display()),
            "build it (`make build`), or say where it is with HEARTH_SANDBOX_BIN",
        ),
    }
}

fn judge(said: &[u8]) -> Check {
    let Ok(report) = serde_json::from_slice::<Report>(said) else {
        return Check::fail(
            NAME,
            "the sandbox program says nothing that makes sense",
            "use programs of one build",
        );
    };
    if report.missing.is_empty() {
        return Check::ok(NAME, "complete");
    }
    let parts: Vec<_> = report
        .missing
        .iter()
        .map(|missing| format!("{} ({})", missing.part, missing.why))
        .collect();
    Check::warn(
        NAME,
        format!("incomplete, without {}", parts.join(", ")),
        "functions run, and the other parts of the jail hold. Run the controller as root for the \
         complete jail; with --require-jail it refuses to start without (see sandbox/SECURITY.md)",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn what_is_missing_is_a_warning_that_names_it() {
        let check = judge(br#"{"missing":[{"part":"user","why":"not root"}]}"#);
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.found.contains("user (not root)"), "{}", check.found);
        assert_eq!(judge(br#"{"missing":[]}"#).verdict, Verdict::Ok);
        assert_eq!(judge(b"").verdict, Verdict::Fail);
    }
}
