//! `LoggingConfig` as clients send it.

use serde::Deserialize;

use crate::api::http::error::ApiError;
use crate::api::http::violations::Violations;
use crate::function::{APPLICATION_LEVELS, LogFormat, Logging, SystemLevel};

/// The members that the request gives; `None` keeps a member as it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct LoggingConfig {
    log_format: Option<String>,
    application_log_level: Option<String>,
    system_log_level: Option<String>,
    log_group: Option<String>,
}

/// The same, after its form was checked.
#[derive(Debug)]
pub(crate) struct LoggingChange {
    json: Option<bool>,
    application_level: Option<String>,
    system_level: Option<SystemLevel>,
    group: Option<String>,
}

impl LoggingConfig {
    pub(crate) fn check(self, violations: &mut Violations) -> LoggingChange {
        let mut one_of = |value: &Option<String>, known: &[&str], field| {
            if let Some(value) = value {
                violations.one_of(value, known, &format!("loggingConfig.{field}"));
            }
        };
        one_of(&self.log_format, &["JSON", "Text"], "logFormat");
        one_of(
            &self.application_log_level,
            &APPLICATION_LEVELS,
            "applicationLogLevel",
        );
        one_of(
            &self.system_log_level,
            &SystemLevel::NAMES,
            "systemLogLevel",
        );
        if let Some(group) = &self.log_group {
            check_group(violations, group);
        }
        let system_level = self.system_log_level;
        LoggingChange {
            json: self.log_format.map(|format| format == "JSON"),
            application_level: self.application_log_level,
            system_level: system_level.and_then(|level| SystemLevel::parse(&level)),
            group: self.log_group,
        }
    }
}

impl LoggingChange {
    /// `before` with this change.
    pub(crate) fn apply(self, before: &Logging) -> Result<Logging, ApiError> {
        let (old_application, old_system) = match &before.format {
            LogFormat::Text => ("INFO".to_owned(), SystemLevel::default()),
            LogFormat::Json {
                application_level,
                system_level,
            } => (application_level.clone(), *system_level),
        };
        let json = self.json.unwrap_or(before.format != LogFormat::Text);
        if !json && (self.application_level.is_some() || self.system_level.is_some()) {
            return Err(ApiError::invalid(
                "LogLevel is not supported when LogFormat is set to \"Text\". Remove LogLevel from \
                 your request or change the LogFormat to \"Json\" and try again.",
            ));
        }
        let format = if json {
            LogFormat::Json {
                application_level: self.application_level.unwrap_or(old_application),
                system_level: self.system_level.unwrap_or(old_system),
            }
        } else {
            LogFormat::Text
        };
        Ok(Logging {
            format,
            group: self.group.or_else(|| before.group.clone()),
        })
    }
}

fn check_group(violations: &mut Violations, group: &str) {
    const FIELD: &str = "loggingConfig.logGroup";
    violations.at_most(group, 512, FIELD);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/#".contains(&b);
    if group.is_empty() || !group.bytes().all(allowed) {
        violations.add(
            group,
            FIELD,
            "Member must satisfy regular expression pattern: [\\.\\-_/#A-Za-z0-9]+",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::http::violations::checked;

    fn apply(before: &Logging, given: Value) -> Result<Logging, ApiError> {
        let given: LoggingConfig = serde_json::from_value(given).unwrap();
        checked(|violations| given.check(violations))?.apply(before)
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
    fn invalid_members_and_combinations_are_refused() {
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
