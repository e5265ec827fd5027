//! The environment that a runtime is started with: Lambda's names and values.

use std::collections::BTreeMap;
use std::ffi::CString;

use hearth_protocol::agent::Configure;
use hearth_protocol::guest::{MAILBOX_FD, MAILBOX_VARIABLE, RUNTIME_API_ADDRESS};

use crate::spawn::LOG_FD;

/// Variables that a function may replace with its own.
const DEFAULTS: [(&str, &str); 6] = [
    // Nothing listens there: tracing libraries send datagrams that are lost, and don't complain.
    ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR"),
    ("AWS_XRAY_DAEMON_ADDRESS", "127.0.0.1:2000"),
    ("LANG", "en_US.UTF-8"),
    (
        "LD_LIBRARY_PATH",
        "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:\
         /opt/lib",
    ),
    (
        "PATH",
        "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
    ),
    ("TZ", ":UTC"),
];

/// A variable that no environment can contain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {name:?} has a NUL byte, or its name is empty or has a '='")]
pub(crate) struct InvalidVariable {
    name: String,
}

/// `NAME=value` strings for `execve`, sorted by name.
pub(crate) fn build(function: &Configure) -> Result<Vec<CString>, InvalidVariable> {
    let mut all: BTreeMap<&str, String> = BTreeMap::new();
    all.extend(DEFAULTS.map(|(name, value)| (name, value.to_owned())));
    let own = function.environment.iter();
    all.extend(own.map(|(name, value)| (name.as_str(), value.clone())));
    // Last, so that the function cannot replace any of these.
    all.extend([
        ("_HANDLER", function.handler.clone()),
        ("AWS_DEFAULT_REGION", function.region.clone()),
        (
            "AWS_EXECUTION_ENV",
            format!("AWS_Lambda_{}", function.runtime),
        ),
        (
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            function.memory_mib.to_string(),
        ),
        ("AWS_LAMBDA_FUNCTION_NAME", function.function_name.clone()),
        (
            "AWS_LAMBDA_FUNCTION_VERSION",
            function.function_version.clone(),
        ),
        (
            "AWS_LAMBDA_INITIALIZATION_TYPE",
            function.initialization_type.clone(),
        ),
        ("AWS_LAMBDA_LOG_GROUP_NAME", function.log_group.clone()),
        ("AWS_LAMBDA_LOG_STREAM_NAME", function.log_stream.clone()),
        ("AWS_LAMBDA_RUNTIME_API", RUNTIME_API_ADDRESS.to_owned()),
        ("AWS_REGION", function.region.clone()),
        ("_LAMBDA_TELEMETRY_LOG_FD", LOG_FD.to_string()),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime".to_owned()),
        ("LAMBDA_TASK_ROOT", "/var/task".to_owned()),
    ]);
    if function.mailbox {
        all.insert(MAILBOX_VARIABLE, MAILBOX_FD.to_string());
    }
    all.into_iter()
        .map(|(name, value)| {
            let invalid = || InvalidVariable {
                name: name.to_owned(),
            };
            if name.is_empty() || name.contains('=') {
                return Err(invalid());
            }
            CString::new(format!("{name}={value}")).map_err(|_| invalid())
        })
        .collect()
}

/// What extensions are told of the function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FunctionIdentity {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) handler: String,
    pub(crate) initialization_type: String,
    pub(crate) memory_mib: u32,
    /// Whether the function logs in JSON.
    pub(crate) json_logs: bool,
}

impl FunctionIdentity {
    pub(crate) fn of(function: &Configure) -> Self {
        Self {
            name: function.function_name.clone(),
            version: function.function_version.clone(),
            handler: function.handler.clone(),
            initialization_type: function.initialization_type.clone(),
            memory_mib: function.memory_mib,
            json_logs: function
                .environment
                .get("AWS_LAMBDA_LOG_FORMAT")
                .is_some_and(|format| format == "JSON"),
        }
    }
}

/// The environment of an extension: the runtime's, without the variables that only the runtime gets.
pub(crate) fn for_extensions(runtimes: &[CString]) -> Vec<CString> {
    const RUNTIMES_ALONE: [&str; 5] = [
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
    ];
    let shared = runtimes.iter().filter(|variable| {
        let bytes = variable.to_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=');
        let name = &bytes[..end.unwrap_or(bytes.len())];
        !name.starts_with(b"_") && !RUNTIMES_ALONE.iter().any(|alone| alone.as_bytes() == name)
    });
    shared.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(environment: &[(&str, &str)]) -> Configure {
        Configure {
            function_name: "f".into(),
            function_version: "7".into(),
            runtime: "python3.11".into(),
            handler: "app.handler".into(),
            memory_mib: 256,
            ephemeral_storage_mib: 512,
            region: "us-east-1".into(),
            log_group: "/aws/lambda/f".into(),
            log_stream: "2026/01/01/[7]0".into(),
            initialization_type: "on-demand".into(),
            environment: environment
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            bootstrap: vec![],
            layers: false,
            mailbox: false,
        }
    }

    fn built(environment: &[(&str, &str)]) -> Vec<String> {
        build(&function(environment))
            .unwrap()
            .into_iter()
            .map(|v| v.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_runtime_finds_all_of_lambdas_variables() {
        assert_eq!(
            built(&[("MINE", "=a b=")]),
            [
                "AWS_DEFAULT_REGION=us-east-1",
                "AWS_EXECUTION_ENV=AWS_Lambda_python3.11",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=256",
                "AWS_LAMBDA_FUNCTION_NAME=f",
                "AWS_LAMBDA_FUNCTION_VERSION=7",
                "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
                "AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/f",
                "AWS_LAMBDA_LOG_STREAM_NAME=2026/01/01/[7]0",
                "AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001",
                "AWS_REGION=us-east-1",
                "AWS_XRAY_CONTEXT_MISSING=LOG_ERROR",
                "AWS_XRAY_DAEMON_ADDRESS=127.0.0.1:2000",
                "LAMBDA_RUNTIME_DIR=/var/runtime",
                "LAMBDA_TASK_ROOT=/var/task",
                "LANG=en_US.UTF-8",
                "LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:\
                 /var/task:/var/task/lib:/opt/lib",
                "MINE==a b=",
                "PATH=/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
                "TZ=:UTC",
                "_HANDLER=app.handler",
                "_LAMBDA_TELEMETRY_LOG_FD=3",
            ]
        );
    }

    #[test]
    fn a_function_may_replace_defaults_but_not_reserved_variables() {
        let all = built(&[("TZ", "Europe/Paris"), ("AWS_LAMBDA_RUNTIME_API", "evil:1")]);
        assert!(all.contains(&"TZ=Europe/Paris".to_owned()));
        assert!(all.contains(&"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001".to_owned()));
        assert!(!all.iter().any(|v| v.contains("evil")));
    }

    #[test]
    fn variables_that_no_environment_can_hold_are_refused() {
        for variable in [("", "v"), ("A=B", "v"), ("A", "v\0w"), ("A\0B", "v")] {
            assert!(build(&function(&[variable])).is_err(), "{variable:?}");
        }
    }

    #[test]
    fn an_extension_gets_the_environment_without_the_runtimes_own_variables() {
        let all = build(&function(&[("MINE", "1"), ("_OWN", "2")])).unwrap();
        let names: Vec<String> = for_extensions(&all)
            .iter()
            .map(|variable| {
                let text = variable.to_str().unwrap();
                text.split_once('=').unwrap().0.to_owned()
            })
            .collect();
        assert!(names.contains(&"MINE".to_owned()));
        assert!(names.contains(&"AWS_LAMBDA_RUNTIME_API".to_owned()));
        assert!(!names.iter().any(|name| name.starts_with('_')));
        assert!(!names.contains(&"LAMBDA_TASK_ROOT".to_owned()));
    }
}
