//! Random generators that all clones of a function would share, as the agent has reported them.

use std::fmt;

use hearth_protocol::agent::SharedGenerator;
use serde::{Deserialize, Serialize};

/// Maximum number of generators that are kept of an agent's report.
const MAX_COUNT: usize = 16;
/// Longest name of a library or file, in bytes.
const MAX_NAME: usize = 256;

/// Libraries with a random generator that can't be reseeded in a snapshot; at least one. The names came
/// from a guest: they have printable characters alone, and bounds, so that they fit any log and terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SharedGenerators(Vec<SharedGenerator>);

impl SharedGenerators {
    /// Checks an agent's report; `None` if there is no such generator.
    pub(crate) fn of_guest(said: &[SharedGenerator]) -> Option<Self> {
        let mut checked: Vec<SharedGenerator> = said
            .iter()
            .take(MAX_COUNT)
            .map(|generator| SharedGenerator {
                library: printable(&generator.library),
                file: printable(&generator.file),
            })
            .collect();
        checked.dedup();
        (!checked.is_empty()).then_some(Self(checked))
    }

    /// For a function whose threads change its memory mappings faster than a snapshot can be taken.
    pub(crate) fn of_threads_that_do_not_rest() -> Self {
        Self(vec![SharedGenerator {
            library: "a thread that goes on loading code or memory after init".into(),
            file: "all processes".into(),
        }])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SharedGenerator> {
        self.0.iter()
    }

    /// The reason why clones would not be unique, without a full stop.
    pub(crate) fn reason(&self) -> String {
        let have = match self.0.len() {
            1 => "has a random generator",
            _ => "have random generators",
        };
        format!("{self} {have} that can't be reseeded in a snapshot")
    }
}

impl fmt::Display for SharedGenerators {
    /// Each library with its file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, SharedGenerator { library, file }) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{library} ({file})")?;
        }
        Ok(())
    }
}

/// As much of `text` as fits, with everything escaped that is no letter, digit, ASCII punctuation or space:
/// a line break would begin a log line of its own, and a control sequence would steer a terminal.
fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let plain = c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
        let piece = if plain {
            c.to_string()
        } else {
            c.escape_unicode().to_string()
        };
        if out.len() + piece.len() > MAX_NAME {
            break;
        }
        out.push_str(&piece);
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One entry of an agent's report.
    pub(crate) fn found(library: &str, file: &str) -> SharedGenerator {
        SharedGenerator {
            library: library.into(),
            file: file.into(),
        }
    }

    #[test]
    fn names_that_a_guest_reports_are_bounded_and_have_no_control_characters() {
        let hostile = found("x\nREPORT RequestId: r\u{1b}[2J\u{202e}", &"é".repeat(1000));
        let said: Vec<_> = (0..100)
            .map(|n| found(&format!("{n}"), "f"))
            .chain([hostile.clone()])
            .collect();
        let many = SharedGenerators::of_guest(&said).unwrap();
        assert_eq!(many.iter().count(), MAX_COUNT);
        let one = SharedGenerators::of_guest(&[hostile]).unwrap();
        let checked = one.iter().next().unwrap();
        assert_eq!(
            checked.library,
            "x\\u{a}REPORT RequestId: r\\u{1b}[2J\\u{202e}"
        );
        assert_eq!(checked.file.len(), MAX_NAME);
        let endless = SharedGenerators::of_guest(&[found(&"\n".repeat(1000), "")]).unwrap();
        let library = &endless.iter().next().unwrap().library;
        assert!(
            library.len() <= MAX_NAME && library.ends_with('}'),
            "{library}"
        );
        assert_eq!(SharedGenerators::of_guest(&[]), None);
    }

    #[test]
    fn the_reason_names_every_library_with_its_file() {
        let gnutls = found("GnuTLS", "/opt/lib/libgnutls.so.30");
        let one = SharedGenerators::of_guest(std::slice::from_ref(&gnutls)).unwrap();
        assert_eq!(
            one.reason(),
            "GnuTLS (/opt/lib/libgnutls.so.30) has a random generator that can't be reseeded in a \
             snapshot"
        );
        let two = [gnutls, found("Rust's rand", "/var/task/bootstrap")];
        let two = SharedGenerators::of_guest(&two).unwrap();
        assert_eq!(
            two.reason(),
            "GnuTLS (/opt/lib/libgnutls.so.30), Rust's rand (/var/task/bootstrap) have random \
             generators that can't be reseeded in a snapshot"
        );
    }
}
