//! Is a controller running, and what does it say of itself?

use serde::Deserialize;
use ureq::http::Method;

use super::Check;
use crate::client::{Client, ClientError};
use crate::output::count;

const NAME: &str = "controller";

#[derive(Deserialize)]
struct Status {
    version: String,
    #[serde(default)]
    instances: usize,
    #[serde(default)]
    warnings: Vec<String>,
}

/// Asks the controller at the endpoint for its status.
pub(super) fn check(client: &Client) -> Check {
    match client.json::<Status>(Method::GET, "/hearth/v1/status", b"") {
        Ok(status) => {
            let found = format!(
                "version {} at {}, {}",
                status.version,
                client.endpoint(),
                count(status.instances, "microVM")
            );
            // The check of the host's kind has said that already.
            let mut warnings = status.warnings;
            warnings.retain(|warning| !warning.contains("virtualization extensions"));
            if warnings.is_empty() {
                Check::ok(NAME, found)
            } else {
                Check::warn(NAME, found, warnings.join("; "))
            }
        }
        Err(error @ ClientError::Refused { .. }) => Check::warn(
            NAME,
            format!(
                "one is at {}, but its status can't be read",
                client.endpoint()
            ),
            error.to_string(),
        ),
        Err(error) => Check::warn(
            NAME,
            format!("none answers at {}", client.endpoint()),
            format!("`hearth serve` starts one here ({error})"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn what_another_check_says_is_not_repeated() {
        let status = r#"{"version":"1","instances":1,"warnings":["no virtualization extensions"]}"#;
        let check = check(&crate::client::testing::client_of(&[("/status", status)]));
        assert_eq!(check.verdict, Verdict::Ok);
        assert!(check.found.ends_with(", 1 microVM"), "{}", check.found);
    }
}
