//! `LoggingConfig` as clients send it.

use serde::Deserialize;

use super::error::ApiError;
use super::fields::{at_most, one_of};
use crate::function::{APPLICATION_LEVELS, LogFormat, Logging, SystemLevel};

/// What of it is given; the rest stays as it was.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct LoggingConfig {
    log_format: Option<String>,
    application_log_level: Option<String>,
    system_log_level: Option<String>,
    log_group: Option<String>,
}

impl LoggingConfig {
    /// `before` with what is given here.
    pub(super) fn apply(self, before: &Logging) -> Result<Logging, ApiError> {
        let format = self
            .log_format
            .map(|format| one_of(format, &["JSON", "Text"], "loggingConfig.logFormat"))
            .transpose()?;
        let application = self
            .application_log_level
            .map(|level| {
                one_of(
                    level,
                    &APPLICATION_LEVELS,
                    "loggingConfig.applicationLogLevel",
                )
            })
            .transpose()?;
        let system = self
            .system_log_level
            .map(|level| one_of(level, &SystemLevel::NAMES, "loggingConfig.systemLogLevel"))
            .transpose()?
            .and_then(|level| SystemLevel::parse(&level));
        let (old_application, old_system) = match &before.format {
            LogFormat::Text => ("INFO".to_owned(), SystemLevel::default()),
            LogFormat::Json {
                application_level,
                system_level,
            } => (application_level.clone(), *system_level),
        };
        let json = match format.as_deref() {
            Some(format) => format == "JSON",
            None => before.format != LogFormat::Text,
        };
        if !json && (application.is_some() || system.is_some()) {
            return Err(ApiError::invalid(
                "LogLevel is not supported when LogFormat is set to \"Text\". Remove LogLevel from \
                 your request or change the LogFormat to \"Json\" and try again.",
            ));
        }
        let group = match self.log_group {
            Some(group) => Some(parse_group(group)?),
            None => before.group.clone(),
        };
        let format = if json {
            LogFormat::Json {
                application_level: application.unwrap_or(old_application),
                system_level: system.unwrap_or(old_system),
            }
        } else {
            LogFormat::Text
        };
        Ok(Logging { format, group })
    }
}

fn parse_group(group: String) -> Result<String, ApiError> {
    const FIELD: &str = "loggingConfig.logGroup";
    at_most(&group, 512, FIELD)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/#".contains(&b);
    if group.is_empty() || !group.bytes().all(allowed) {
        return Err(ApiError::constraint(
            &group,
            FIELD,
            "Member must satisfy regular expression pattern: [\\.\\-_/#A-Za-z0-9]+",
        ));
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn apply(before: &Logging, given: Value) -> Result<Logging, ApiError> {
        let given: LoggingConfig = serde_json::from_value(given).unwrap();
        given.apply(before)
    }

    #[test]
    fn json_has_levels_and_text_has_none() {
        let text = Logging::default();
        let json = apply(&text, json!({"LogFormat": "JSON"})).unwrap();
        let level = |application: &str, system_level| LogFormat::Json {
            application_level: application.into(),
            system_level,
        };
        assert_eq!(json.format, level("INFO", SystemLevel::Info));
        let warn = apply(&json, json!({"SystemLogLevel": "WARN", "LogGroup": "a/b"})).unwrap();
        assert_eq!(warn.format, level("INFO", SystemLevel::Warn));
        assert_eq!(warn.group_of("f"), "a/b");
        let trace = apply(&warn, json!({"ApplicationLogLevel": "TRACE"})).unwrap();
        assert_eq!(trace.format, level("TRACE", SystemLevel::Warn));
        let back = apply(&trace, json!({"LogFormat": "Text"})).unwrap();
        assert_eq!(back.format, LogFormat::Text);
        assert_eq!(text.group_of("f"), "/aws/lambda/f");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let text = Logging::default();
        for bad in [
            json!({"LogFormat": "json"}),
            json!({"ApplicationLogLevel": "INFO"}),
            json!({"LogFormat": "Text", "SystemLogLevel": "INFO"}),
            json!({"LogFormat": "JSON", "SystemLogLevel": "ERROR"}),
            json!({"LogFormat": "JSON", "ApplicationLogLevel": "LOUD"}),
            json!({"LogGroup": ""}),
            json!({"LogGroup": "a b"}),
            json!({"LogGroup": "x".repeat(513)}),
        ] {
            assert!(apply(&text, bad.clone()).is_err(), "{bad}");
        }
    }
}
