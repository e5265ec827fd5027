//! Is a controller running, and what does it say of itself?

use serde::Deserialize;
use ureq::http::Method;

use super::Check;
use crate::client::{Client, ClientError};

const NAME: &str = "controller";

#[derive(Deserialize)]
struct Status {
    version: String,
    #[serde(default)]
    instances: u64,
    #[serde(default)]
    warnings: Vec<String>,
}

/// Asks the controller at the endpoint for its status.
pub(super) fn check(client: &Client) -> Check {
    match client.json::<Status>(Method::GET, "/hearth/v1/status", b"") {
        Ok(status) => {
            let found = format!(
                "version {} at {}, {} microVMs",
                status.version,
                client.endpoint(),
                status.instances
            );
            if status.warnings.is_empty() {
                Check::ok(NAME, found)
            } else {
                Check::warn(NAME, found, status.warnings.join("; "))
            }
        }
        Err(error @ ClientError::Refused { .. }) => Check::warn(
            NAME,
            format!(
                "one is at {}, and does not say how it is",
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
