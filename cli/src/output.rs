//! Where text goes and how it looks: results on standard output, everything else on standard
//! error; colours only on a terminal, and not with `NO_COLOR`; no progress unless standard error is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;

/// How to answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// With JSON on standard output.
    pub(crate) json: bool,
    stdout_colour: bool,
    stderr_colour: bool,
    stderr_terminal: bool,
    stdout_terminal: bool,
}

/// A meaning that may have a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Careful,
    Bad,
    Quiet,
    Strong,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Careful => "33",
            Self::Bad => "31",
            Self::Quiet => "2",
            Self::Strong => "1",
        }
    }
}

/// Which stream a text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Output {
    /// For this process's streams and environment.
    pub(crate) fn new(json: bool) -> Self {
        // https://no-color.org: any value but an empty one.
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (stdout, stderr) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            json,
            stdout_colour: wanted && stdout,
            stderr_colour: wanted && stderr,
            stderr_terminal: stderr,
            stdout_terminal: stdout,
        }
    }

    /// `text` in the colour of `tone`, if `stream` shows colours.
    pub(crate) fn paint(&self, stream: Stream, tone: Tone, text: &str) -> String {
        let colour = match stream {
            Stream::Stdout => self.stdout_colour,
            Stream::Stderr => self.stderr_colour,
        };
        if colour {
            format!("\x1b[{}m{text}\x1b[0m", tone.code())
        } else {
            text.to_owned()
        }
    }

    /// `text`, which a function wrote, fit for `stream`: on a terminal control characters are
    /// shown, not obeyed.
    pub(crate) fn foreign(&self, stream: Stream, text: &str) -> String {
        let terminal = match stream {
            Stream::Stdout => self.stdout_terminal,
            Stream::Stderr => self.stderr_terminal,
        };
        if terminal {
            printable(text)
        } else {
            text.to_owned()
        }
    }

    /// A line of the result.
    pub(crate) fn line(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Bytes of the result, as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        // A result without a newline would leave the prompt behind it.
        if self.stdout_terminal && !bytes.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// The result as JSON.
    pub(crate) fn value<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.line(&text)
    }

    /// A line of the result as JSON, for results that come one after another.
    pub(crate) fn value_line<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let text = serde_json::to_string(value).map_err(io::Error::other)?;
        self.line(&text)
    }

    /// Something to know beside the result.
    pub(crate) fn note(&self, text: &str) {
        // Standard error that can't be written has no reader: the text is dropped.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Whether a person reads standard error as it is written.
    pub(crate) fn is_interactive(&self) -> bool {
        self.stderr_terminal
    }

    /// `text` in place of what the terminal's line shows. It is cut where the line ends: a longer one
    /// could not be taken back.
    pub(crate) fn in_place(&self, text: &str) {
        // Auto-wrap off, to the left, clear the line, the text, auto-wrap on.
        // As for a note: there is nothing to do about a standard error that can't be written.
        let _ = write!(io::stderr().lock(), "\x1b[?7l\r\x1b[K{text}\x1b[?7h");
    }

    /// A step of the command, shown on a terminal only.
    pub(crate) fn progress(&self, text: &str) {
        if self.stderr_terminal && !self.json {
            self.note(&self.paint(Stream::Stderr, Tone::Quiet, text));
        }
    }
}

/// `text` with control characters, except tab and newline, made visible.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\t' && c != '\n' {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Columns under their headings, each as wide as its widest cell.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widths = cells.map(|cell| cell.chars().count());
        widths
            .chain([headings[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (cell, width) in cells.zip(&widths) {
            out.push_str(&format!("{cell:<width$}  "));
        }
        out.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headings.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

/// A span of time in two units at most: `850 ms`, `12.3 s`, `4 min 02 s`, `3 h 05 min`, `2 d 3 h`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A span that came as seconds from elsewhere; nonsense counts as zero.
pub(crate) fn span_of_seconds(seconds: f64) -> String {
    span(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// A number of things, with an `s` unless it is one.
pub(crate) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A number of bytes in the largest unit that leaves a digit before the point.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    // Rounding is fine: the figure is for people.
    #[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{amount:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Output = Output {
        json: false,
        stdout_colour: false,
        stderr_colour: false,
        stderr_terminal: false,
        stdout_terminal: true,
    };

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let rows = vec![
            vec!["python-hello".to_owned(), "1".to_owned()],
            vec!["ü".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "N"], &rows),
            "NAME          N\npython-hello  1\nü             22"
        );
        assert_eq!(table(&["NAME"], &[]), "NAME");
    }

    #[test]
    fn spans_and_sizes_are_short() {
        for (ms, text) in [
            (850, "850 ms"),
            (12_340, "12.3 s"),
            (242_000, "4 min 02 s"),
            (11_100_000, "3 h 05 min"),
            (183_600_000, "2 d 3 h"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), text);
        }
        assert_eq!(span_of_seconds(f64::NAN), "0 ms");
        assert_eq!(
            (size(17), size(1536)),
            ("17 B".to_owned(), "1.5 KiB".to_owned())
        );
        assert_eq!(size(3 << 30), "3.0 GiB");
        assert_eq!(
            (count(1, "file"), count(2, "file")),
            ("1 file".to_owned(), "2 files".to_owned())
        );
    }

    #[test]
    fn a_functions_escape_sequences_do_not_reach_a_terminal() {
        assert_eq!(
            PLAIN.foreign(Stream::Stdout, "a\x1b[2Jb\tc"),
            "a\\u{1b}[2Jb\tc"
        );
        assert_eq!(
            PLAIN.foreign(Stream::Stderr, "a\x1bb"),
            "a\x1bb",
            "a file keeps them"
        );
    }

    #[test]
    fn without_colours_there_are_none() {
        assert_eq!(PLAIN.paint(Stream::Stdout, Tone::Bad, "x"), "x");
        let coloured = Output {
            stdout_colour: true,
            ..PLAIN
        };
        assert_eq!(
            coloured.paint(Stream::Stdout, Tone::Bad, "x"),
            "\x1b[31mx\x1b[0m"
        );
    }
}
