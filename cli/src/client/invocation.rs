//! Invoking a function: the limits of a request, and its answer with the controller's report.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ureq::http::{HeaderMap, Request};

use super::function::percent_encode;
use super::{Client, ClientError};
use crate::function_name::FunctionRef;

/// Limits below the function's own, for one invocation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Wall-clock milliseconds.
    pub(crate) timeout_ms: Option<u64>,
    /// MiB.
    pub(crate) memory_mib: Option<u64>,
    /// CPU milliseconds.
    pub(crate) cpu_ms: Option<u64>,
}

/// What came of an invocation.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// The function's result or error body, as it is.
    pub(crate) payload: Vec<u8>,
    /// `X-Amz-Function-Error`: there if the function failed.
    pub(crate) function_error: Option<String>,
    /// The last lines that it wrote.
    pub(crate) log: String,
    /// What it took.
    pub(crate) report: Report,
}

/// What the controller tells about an invocation in headers. Each may be missing.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) request_id: Option<String>,
    pub(crate) executed_version: Option<String>,
    /// `cold` or `warm`.
    pub(crate) start: Option<String>,
    pub(crate) duration_ms: Option<f64>,
    pub(crate) cpu_ms: Option<f64>,
    pub(crate) max_memory_mib: Option<u64>,
    pub(crate) phases: Option<Phases>,
}

/// Where the time went, in microseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Phases {
    /// From acceptance to an instance in hand.
    pub(crate) queue_us: u64,
    /// Until the guest ran again; 0 when warm.
    pub(crate) restore_us: u64,
    /// Until the answer.
    pub(crate) run_us: u64,
    /// All of it.
    pub(crate) total_us: u64,
}

impl Report {
    fn from_headers(headers: &HeaderMap) -> Self {
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        Self {
            request_id: text("x-amzn-requestid"),
            executed_version: text("x-amz-executed-version"),
            start: text("x-hearth-start"),
            duration_ms: text("x-hearth-duration-ms").and_then(|ms| ms.parse().ok()),
            cpu_ms: text("x-hearth-cpu-ms").and_then(|ms| ms.parse().ok()),
            max_memory_mib: text("x-hearth-max-memory-mib").and_then(|mib| mib.parse().ok()),
            phases: text("x-hearth-phases").and_then(|json| serde_json::from_str(&json).ok()),
        }
    }
}

impl Client {
    /// Runs `function` on `event` and waits for its answer.
    pub(crate) fn invoke(
        &self,
        function: &FunctionRef,
        event: &[u8],
        limits: Limits,
    ) -> Result<Invocation, ClientError> {
        let name = match &function.arn {
            Some(arn) => percent_encode(arn),
            None => function.name.to_string(),
        };
        let mut path = format!("/2015-03-31/functions/{name}/invocations");
        if let (Some(qualifier), None) = (&function.qualifier, &function.arn) {
            path.push_str("?Qualifier=");
            path.push_str(&percent_encode(qualifier));
        }
        let mut request = Request::builder()
            .method("POST")
            .header("x-amz-log-type", "Tail");
        for (name, limit) in [
            ("x-hearth-timeout-ms", limits.timeout_ms),
            ("x-hearth-memory-mib", limits.memory_mib),
            ("x-hearth-cpu-ms", limits.cpu_ms),
        ] {
            if let Some(limit) = limit {
                request = request.header(name, limit);
            }
        }
        let response = self.invocation(request, &path, event)?;
        let report = Report::from_headers(response.headers());
        let text = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let function_error = text("x-amz-function-error");
        let log = text("x-amz-log-result")
            .and_then(|base64| STANDARD.decode(base64).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        Ok(Invocation {
            payload: self.read(&path, response)?,
            function_error,
            log,
            report,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_of_the_answer_is_read() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-amzn-requestid", "r"),
            ("x-amz-executed-version", "$LATEST"),
            ("x-hearth-start", "cold"),
            ("x-hearth-duration-ms", "12.345"),
            ("x-hearth-cpu-ms", "3.5"),
            ("x-hearth-max-memory-mib", "14"),
            (
                "x-hearth-phases",
                r#"{"queue_us":1,"restore_us":2,"run_us":3,"total_us":6}"#,
            ),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let report = Report::from_headers(&headers);
        assert_eq!(report.start.as_deref(), Some("cold"));
        assert_eq!(report.duration_ms, Some(12.345));
        assert_eq!(report.max_memory_mib, Some(14));
        assert_eq!(report.phases.unwrap().restore_us, 2);
    }

    #[test]
    fn an_answer_without_them_is_still_an_answer() {
        let mut headers = HeaderMap::new();
        headers.insert("x-hearth-phases", "nonsense".parse().unwrap());
        let report = Report::from_headers(&headers);
        assert!(report.start.is_none() && report.phases.is_none());
    }
}
