//! `LoggingConfig` as clients send it.

use serde::Deserialize;

use crate::api::http::error::ApiError;
use crate::api::http::violations::Violations;
use crate::function::{APPLICATION_LEVELS, LogFormat, Logging, SystemLevel};

/// The members that the request gives.
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
    json: bool,
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
            json: self.log_format.as_deref() == Some("JSON"),
            application_level: self.application_log_level,
            system_level: system_level.and_then(|level| SystemLevel::parse(&level)),
            group: self.log_group,
        }
    }
}

impl LoggingChange {
    /// The configuration. It replaces the one before as a whole, as on Lambda: members that are not given
    /// have their defaults.
    pub(crate) fn logging(self) -> Result<Logging, ApiError> {
        if !self.json && (self.application_level.is_some() || self.system_level.is_some()) {
            return Err(ApiError::invalid(
                "LogLevel is not supported when LogFormat is set to \"Text\". Remove LogLevel from \
                 your request or change the LogFormat to \"Json\" and try again.",
            ));
        }
        let format = if self.json {
            LogFormat::Json {
                application_level: self.application_level.unwrap_or_else(|| "INFO".into()),
                system_level: self.system_level.unwrap_or_default(),
            }
        } else {
            LogFormat::Text
        };
        Ok(Logging {
            format,
            group: self.group,
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

    fn logging(given: Value) -> Result<Logging, ApiError> {
        let given: LoggingConfig = serde_json::from_value(given).unwrap();
        checked(|violations| given.check(violations))?.logging()
    }

    #[test]
    fn json_has_levels_and_text_has_none() {
        let level = |application: &str, system_level| LogFormat::Json {
            application_level: application.into(),
            system_level,
        };
        let json = logging(json!({"LogFormat": "JSON"})).unwrap();
        assert_eq!(json.format, level("INFO", SystemLevel::Info));
        let given = json!({
            "LogFormat": "JSON", "SystemLogLevel": "WARN", "ApplicationLogLevel": "TRACE",
            "LogGroup": "a/b",
        });
        let given = logging(given).unwrap();
        assert_eq!(given.format, level("TRACE", SystemLevel::Warn));
        assert_eq!(given.group_of("f"), "a/b");
        for text in [json!({"LogFormat": "Text"}), json!({})] {
            assert_eq!(logging(text).unwrap(), Logging::default());
        }
        assert_eq!(Logging::default().group_of("f"), "/aws/lambda/f");
    }

    #[test]
    fn invalid_members_and_combinations_are_refused() {
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
            assert!(logging(bad.clone()).is_err(), "{bad}");
        }
    }
}
