//! The log of the controller's own process, on standard error: from which level on, in which format.
//! What functions write is not in it; `logs` keeps that.
//!
//! The spans of the log say what a line belongs to: `connection`, `request`, `event`, `instance`,
//! `invocation`, `deploy`, `rebuild` and `prepare`. To make a span that is enabled takes about half a
//! microsecond and allocates memory, and each poll that enters it takes 30 ns more. A warm invocation must
//! not pay that. So the spans that a warm invocation passes through are at debug; disabled, each takes
//! 15 ns. A line at info or above about an invocation therefore has `request_id` as a field of its own, and
//! enters its instance's span only to be written (`instance::LogSubject`). What is rare (a change of a
//! function, a deploy, the start of an instance) has its span at error, which every level enables.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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
        tracing_subscriber::util::SubscriberInitExt::init(subscriber(
            self.log_format,
            filter,
            terminal && !plain,
            std::io::stderr,
        ));
        for source in unknown {
            tracing::warn!(
                source,
                "{VARIABLE} names a source that Hearth does not have"
            );
        }
        Ok(())
    }
}

/// Writes lines in a format to `writer`.
fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    colours: bool,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(writer);
    match format {
        LogFormat::Text => Box::new(log.finish()),
        // `spans` has all spans; without this, `span` would have the innermost once more.
        LogFormat::Json => Box::new(log.json().with_current_span(false).finish()),
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
pub(crate) mod capture {
    //! For tests: what this thread logs.

    use std::io;
    use std::sync::{Arc, Mutex, OnceLock};

    use serde_json::Value;
    use tracing::Dispatch;
    use tracing::subscriber::{DefaultGuard, NoSubscriber};

    use super::*;

    /// The log of this thread until it is dropped.
    #[derive(Debug)]
    pub(crate) struct Captured {
        written: Written,
        _guard: DefaultGuard,
    }

    /// Captures what this thread logs from `level` on, as the controller would write it.
    pub(crate) fn log(format: LogFormat, level: &str) -> Captured {
        // If there is only one subscriber, `tracing` asks the thread that is the first to reach a line
        // whether anybody wants it, and remembers the answer for all threads: a test without a subscriber
        // would turn the line off for this one.
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(NoSubscriber::default()));
        let written = Written::default();
        let writer = written.clone();
        let subscriber = subscriber(format, EnvFilter::new(level), false, move || writer.clone());
        Captured {
            written,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    impl Captured {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.written.0.lock().unwrap().clone()).unwrap()
        }

        /// The JSON of each line whose message contains `message`.
        pub(crate) fn lines(&self, message: &str) -> Vec<Value> {
            let text = self.text();
            text.lines()
                .map(|line| serde_json::from_str::<Value>(line).expect(line))
                .filter(|line| {
                    let own = line["fields"]["message"].as_str();
                    own.is_some_and(|own| own.contains(message))
                })
                .collect()
        }
    }

    /// The value of a field, which the line or one of its spans has; the innermost counts.
    pub(crate) fn field<'a>(line: &'a Value, name: &str) -> &'a Value {
        let spans = line["spans"].as_array().into_iter().flatten().rev();
        let mut all = std::iter::once(&line["fields"]).chain(spans);
        all.find_map(|fields| fields.get(name))
            .unwrap_or(&Value::Null)
    }

    #[derive(Debug, Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The innermost span came twice in JSON.
    #[test]
    fn both_formats_have_the_fields_of_all_spans_once() {
        let write = |format| {
            let log = capture::log(format, "info");
            let outer = tracing::error_span!("outer", a = 1, late = tracing::field::Empty);
            outer.record("late", "x");
            let inner = tracing::error_span!(parent: &outer, "inner", b = "2");
            let hidden = tracing::debug_span!("hidden", c = 3);
            inner.in_scope(|| hidden.in_scope(|| tracing::info!(d = 4, "the controller says")));
            log.text()
        };
        let text = write(LogFormat::Text);
        assert!(
            text.contains(r#"outer{a=1 late="x"}:inner{b="2"}: "#)
                && text.trim_end().ends_with("the controller says d=4"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&write(LogFormat::Json)).unwrap();
        let spans = serde_json::json!([
            { "name": "outer", "a": 1, "late": "x" },
            { "name": "inner", "b": "2" },
        ]);
        assert_eq!(json["spans"], spans);
        assert_eq!((&json["fields"]["d"], json.get("span")), (&4.into(), None));
    }

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
