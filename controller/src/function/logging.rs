//! A function's `LoggingConfig`.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::VersionId;

/// Format, levels and group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logging {
    pub(crate) format: LogFormat,
    /// Clients and the function see this name, but logs are stored by function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
}

/// The format of log records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json {
        /// The runtime filters by this level.
        application_level: String,
        system_level: SystemLevel,
    },
}

/// The lowest level of platform events in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum SystemLevel {
    Debug,
    #[default]
    Info,
    Warn,
}

/// Lambda's application log levels.
pub(crate) const APPLICATION_LEVELS: [&str; 6] =
    ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

impl SystemLevel {
    pub(crate) const NAMES: [&str; 3] = ["DEBUG", "INFO", "WARN"];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Debug, Self::Info, Self::Warn]
            .into_iter()
            .find(|level| level.name() == name)
    }
}

impl Logging {
    /// Whether this is the default configuration.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The log group of a function.
    pub(crate) fn group_of(&self, function: &str) -> String {
        let default = || format!("/aws/lambda/{function}");
        self.group.clone().unwrap_or_else(default)
    }

    /// The environment variables that configure runtimes.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        match &self.format {
            LogFormat::Text => Vec::new(),
            LogFormat::Json {
                application_level, ..
            } => vec![
                ("AWS_LAMBDA_LOG_FORMAT".into(), "JSON".into()),
                ("AWS_LAMBDA_LOG_LEVEL".into(), application_level.clone()),
            ],
        }
    }
}

/// The name of a new log stream, unique for each instance, in Lambda's format.
pub(crate) fn new_log_stream(version: VersionId) -> String {
    let today = OffsetDateTime::now_utc().date();
    format!(
        "{:04}/{:02}/{:02}/[{version}]{}",
        today.year(),
        u8::from(today.month()),
        today.day(),
        uuid::Uuid::new_v4().simple()
    )
}
