//! Where text goes and how it looks: results on standard output, everything else on standard
//! error; colours only on a terminal, and not with `NO_COLOR`; no progress unless standard error is a terminal.
//!
//! Most of what is written comes from somebody else: functions, the controller, file names. On a terminal
//! [`visible`] shows characters that a terminal would obey. All text goes through it here, so that no
//! command can forget it.

use std::borrow::Cow;
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
    const ALL: [Self; 5] = [
        Self::Good,
        Self::Careful,
        Self::Bad,
        Self::Quiet,
        Self::Strong,
    ];

    /// The escape sequence that begins it.
    fn begin(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Careful => "\x1b[33m",
            Self::Bad => "\x1b[31m",
            Self::Quiet => "\x1b[2m",
            Self::Strong => "\x1b[1m",
        }
    }
}

/// The escape sequence that ends every tone.
const END_OF_TONE: &str = "\x1b[0m";

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
        if self.shows_colours(stream) {
            format!("{}{text}{END_OF_TONE}", tone.begin())
        } else {
            text.to_owned()
        }
    }

    /// `text`, which somebody else wrote, fit for `stream`: on a terminal control characters are
    /// shown, not obeyed, colours included.
    pub(crate) fn foreign(&self, stream: Stream, text: &str) -> String {
        if self.is_terminal(stream) {
            visible(text, false).into_owned()
        } else {
            text.to_owned()
        }
    }

    /// The same for a text that may have tones.
    fn fit<'a>(&self, stream: Stream, text: &'a str) -> Cow<'a, str> {
        if self.is_terminal(stream) {
            visible(text, self.shows_colours(stream))
        } else {
            Cow::Borrowed(text)
        }
    }

    /// The same for bytes of the result. A terminal also obeys bytes that are no text.
    fn fit_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.stdout_terminal {
            let text = String::from_utf8_lossy(bytes);
            Cow::Owned(visible(&text, false).into_owned().into_bytes())
        } else {
            Cow::Borrowed(bytes)
        }
    }

    fn is_terminal(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout_terminal,
            Stream::Stderr => self.stderr_terminal,
        }
    }

    fn shows_colours(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout_colour,
            Stream::Stderr => self.stderr_colour,
        }
    }

    /// A line of the result.
    pub(crate) fn line(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(self.fit(Stream::Stdout, text).as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Bytes of the result: into a file or pipe as they are, on a terminal as text.
    pub(crate) fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(&self.fit_bytes(bytes))?;
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
        let _ = writeln!(io::stderr().lock(), "{}", self.fit(Stream::Stderr, text));
    }

    /// Whether a person reads standard error as it is written.
    pub(crate) fn is_interactive(&self) -> bool {
        self.stderr_terminal
    }

    /// `text` in place of what the terminal's line shows. It is cut where the line ends: a longer one
    /// could not be taken back.
    pub(crate) fn in_place(&self, text: &str) {
        // A second line could not be taken back either.
        let text = self.fit(Stream::Stderr, text).replace('\n', " ");
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

/// `text` with every character made visible that a terminal obeys, or that changes what a reader sees of
/// the others: `\u{1b}` for ESC. With `tones` the escape sequences of [`Output::paint`] stay, and no others.
fn visible(text: &str, tones: bool) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let own = Tone::ALL.iter().map(|tone| tone.begin());
        let mut own = own.chain([END_OF_TONE]);
        if tones && let Some(own) = own.find(|own| rest.starts_with(own)) {
            out.push_str(own);
            rest = &rest[own.len()..];
            continue;
        }
        if is_obeyed(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    Cow::Owned(out)
}

/// Control characters except tab and newline, and the formatting characters of Unicode that turn the
/// direction of text, end a line, or are never visible.
fn is_obeyed(c: char) -> bool {
    let control = c.is_control() && c != '\t' && c != '\n';
    control
        || matches!(
            c,
            '\u{61c}'
                | '\u{200b}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

impl Output {
    /// Columns under their headings for standard output, each as wide as its widest cell.
    pub(crate) fn table(&self, headings: &[&str], rows: &[Vec<String>]) -> String {
        let fit = |cell: &String| {
            let cell = self.foreign(Stream::Stdout, cell);
            // One row is one line.
            if self.stdout_terminal {
                cell.replace('\n', "\\n")
            } else {
                cell
            }
        };
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(fit).collect())
            .collect();
        columns(headings, &rows)
    }
}

fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
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
            PLAIN.table(&["NAME", "N"], &rows),
            "NAME          N\npython-hello  1\nü             22"
        );
        assert_eq!(PLAIN.table(&["NAME"], &[]), "NAME");
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

    /// `hearth invoke` wrote a function's result to the terminal as it was.
    #[test]
    fn nothing_that_is_written_to_a_terminal_is_obeyed() {
        let title = "\x1b]0;pwned\x07\x1b[31mRED";
        let shown = "\\u{1b}]0;pwned\\u{7}\\u{1b}[31mRED";
        assert_eq!(*PLAIN.fit_bytes(title.as_bytes()), *shown.as_bytes());
        assert_eq!(PLAIN.fit(Stream::Stdout, title), shown);
        assert_eq!(PLAIN.fit(Stream::Stderr, title), title, "a file keeps them");
        assert_eq!(
            *PLAIN.fit_bytes(b"\x9b31m\xff"),
            *"\u{fffd}31m\u{fffd}".as_bytes()
        );
        let cell = vec![vec!["a\x1b[2J\nb".to_owned()]];
        assert_eq!(PLAIN.table(&["N"], &cell), "N\na\\u{1b}[2J\\nb");
        let file = Output {
            stdout_terminal: false,
            ..PLAIN
        };
        assert_eq!(*file.fit_bytes(b"\x9b\xff"), *b"\x9b\xff");
    }

    #[test]
    fn text_that_turns_around_or_hides_is_shown() {
        for c in [
            '\u{7f}',
            '\u{9b}',
            '\r',
            '\u{202e}',
            '\u{2066}',
            '\u{200f}',
            '\u{61c}',
            '\u{2028}',
            '\u{feff}',
            '\u{e0041}',
        ] {
            let text = format!("a{c}b");
            let expected = format!("a{}b", c.escape_unicode());
            assert_eq!(PLAIN.foreign(Stream::Stdout, &text), expected);
        }
        let fine = "a\tb\nc ü \u{5d0} \u{1f469}\u{200d}\u{1f4bb}";
        assert_eq!(PLAIN.foreign(Stream::Stdout, fine), fine);
    }

    #[test]
    fn tones_stay_and_no_other_sequence_does() {
        let coloured = Output {
            stdout_colour: true,
            ..PLAIN
        };
        for tone in Tone::ALL {
            let painted = coloured.paint(Stream::Stdout, tone, "x");
            assert_eq!(coloured.fit(Stream::Stdout, &painted), painted);
            assert_ne!(PLAIN.fit(Stream::Stdout, &painted), painted);
        }
        let others = "\x1b[5mx\x1b[31;1m\x1b[";
        assert!(!coloured.fit(Stream::Stdout, others).contains('\x1b'));
        let painted = coloured.paint(Stream::Stdout, Tone::Bad, "\x1b[2J");
        let fit = coloured.fit(Stream::Stdout, &painted);
        assert_eq!(fit, "\x1b[31m\\u{1b}[2J\x1b[0m");
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
