//! The log of the controller's own process, on standard error: from which level on, in which format.
//! What functions write is not in it; `logs` keeps that.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// The variable that names levels.
const VARIABLE: &str = "RUST_LOG";
/// What messages come from: Hearth's crates, the guest kernels' console, and the libraries that log.
const SOURCES: [&str; 13] = [
    "hearth",
    "guest",
    "sandbox",
    "axum",
    "hyper",
    "h2",
    "mio",
    "notify",
    "object_store",
    "rustls",
    "tokio",
    "tower",
    "ureq",
];

/// Settings of the log. `hearthd` and `hearth serve` share them.
#[derive(Debug, Clone, Copy, Args)]
pub struct LogSettings {
    /// How the log is written: text for people, or one JSON object a line. RUST_LOG sets the level:
    /// error, warn, info, debug or trace, also by source (RUST_LOG=info,hearth_controller=debug).
    #[arg(long, env = "HEARTH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// `RUST_LOG` says nothing that could be followed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{VARIABLE}={value:?}: {message}; expected a level such as debug, or a list such as info,hearth_controller=debug"
)]
pub struct LogError {
    value: String,
    message: String,
}

impl LogSettings {
    /// Begins the log. `RUST_LOG` wins over `level`.
    pub fn start(self, level: &str) -> Result<(), LogError> {
        let value = std::env::var(VARIABLE).unwrap_or_default();
        let (filter, unknown) = filter(&value, level)?;
        let terminal = std::io::stderr().is_terminal();
        // https://no-color.org: any value but an empty one.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(terminal && !plain)
            .with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().init(),
        }
        for source in unknown {
            tracing::warn!(
                source,
                "{VARIABLE} names a source that Hearth does not have"
            );
        }
        Ok(())
    }
}

/// The filter that `value` describes, and the sources in it that there are none of.
fn filter(value: &str, level: &str) -> Result<(EnvFilter, Vec<String>), LogError> {
    let value = value.trim();
    if value.is_empty() {
        return Ok((EnvFilter::new(level), Vec::new()));
    }
    let bad = |message: String| LogError {
        value: value.to_owned(),
        message,
    };
    let mut unknown = Vec::new();
    // A directive with fields may have commas of its own: those are the parser's business alone.
    if !value.contains('[') {
        for directive in value.split(',').map(str::trim) {
            let (source, wanted) = match directive.split_once('=') {
                Some((source, wanted)) => (source, Some(wanted)),
                None => (directive, None),
            };
            if wanted.is_some_and(|level| !is_level(level)) {
                return Err(bad(format!("{directive:?} has no level")));
            }
            if wanted.is_none() && is_level(source) {
                continue;
            }
            if !SOURCES.iter().any(|known| source.starts_with(known)) {
                unknown.push(source.to_owned());
            }
        }
    }
    let filter = EnvFilter::try_new(value).map_err(|error| bad(error.to_string()))?;
    Ok((filter, unknown))
}

fn is_level(text: &str) -> bool {
    text.parse::<tracing::metadata::LevelFilter>().is_ok() && !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RUST_LOG=bogus=` turned everything off, and `garbage=foo` was taken without a word.
    #[test]
    fn a_level_that_means_nothing_is_refused_and_an_unknown_source_is_told() {
        for bad in ["bogus=", "garbage=foo", "info,hearth=loud"] {
            let error = filter(bad, "info").unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("debug"), "{error}");
        }
        let unknown = |value| filter(value, "info").unwrap().1;
        assert_eq!(unknown("info,garbage=debug"), ["garbage"]);
        assert_eq!(unknown("heart"), ["heart"]);
        for good in [
            "",
            "debug",
            "INFO",
            "off",
            "hearth_controller=debug,hyper=warn",
            "warn,hearth_controller::pool=trace",
            "info,guest=debug",
        ] {
            assert!(unknown(good).is_empty(), "{good}");
        }
    }
}
