//! The progress of a deploy: on a terminal one line that changes in place, otherwise a line every ten
//! seconds, with `--json` nothing.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::output::{Output, Stream, Tone};

/// Interval between lines where a line can't be replaced.
const INTERVAL: Duration = Duration::from_secs(10);

/// Of one command.
#[derive(Debug)]
pub(crate) struct Progress {
    output: Output,
    mode: Mode,
    state: RefCell<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Steps, and the phase in a line that changes.
    InPlace,
    /// The phase from time to time.
    Lines,
    Silent,
}

#[derive(Debug)]
struct State {
    /// The line on the terminal that the next one replaces; empty if there is none.
    shown: String,
    /// When the next line is due.
    due: Instant,
}

impl Progress {
    /// For a command that has standard error for itself.
    pub(crate) fn new(output: Output) -> Self {
        let mode = match (output.json, output.is_interactive()) {
            (true, _) => Mode::Silent,
            (false, true) => Mode::InPlace,
            (false, false) => Mode::Lines,
        };
        Self::with(output, mode)
    }

    /// For a command whose other threads write to standard error too.
    pub(crate) fn in_lines(output: Output) -> Self {
        Self::with(output, Mode::Lines)
    }

    fn with(output: Output, mode: Mode) -> Self {
        let state = State {
            shown: String::new(),
            due: Instant::now() + INTERVAL,
        };
        Self {
            output,
            mode,
            state: RefCell::new(state),
        }
    }

    /// Something begins.
    pub(crate) fn step(&self, text: &str) {
        if self.mode == Mode::InPlace {
            self.clear();
            self.output.progress(text);
        }
    }

    /// What the command waits for now. Cheap to call in a polling loop.
    pub(crate) fn phase(&self, text: &str) {
        if let Some(line) = self.due(text, Instant::now()) {
            match self.mode {
                Mode::InPlace => self.output.in_place(&line),
                Mode::Lines | Mode::Silent => self.output.note(&line),
            }
        }
    }

    /// What has to be written for `text` now.
    fn due(&self, text: &str, now: Instant) -> Option<String> {
        let mut state = self.state.borrow_mut();
        match self.mode {
            Mode::Silent => None,
            Mode::InPlace if state.shown == text => None,
            Mode::InPlace => {
                text.clone_into(&mut state.shown);
                Some(self.output.paint(Stream::Stderr, Tone::Quiet, text))
            }
            Mode::Lines if now < state.due => None,
            Mode::Lines => {
                state.due = now + INTERVAL;
                Some(text.to_owned())
            }
        }
    }

    /// The line that changes goes: what follows begins at the left.
    pub(crate) fn clear(&self) {
        let shown = std::mem::take(&mut self.state.borrow_mut().shown);
        if !shown.is_empty() {
            self.output.in_place("");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A deploy of minutes wrote nothing into a pipe.
    #[test]
    fn in_a_pipe_a_wait_is_spoken_of_every_ten_seconds() {
        let progress = Progress::with(Output::new(false), Mode::Lines);
        let start = progress.state.borrow().due - INTERVAL;
        let said = |seconds| progress.due("init: 1 s", start + Duration::from_secs(seconds));
        assert_eq!(said(9), None);
        assert_eq!(said(10).as_deref(), Some("init: 1 s"));
        assert_eq!(said(19), None);
        assert!(said(20).is_some());
    }

    #[test]
    fn on_a_terminal_a_line_is_written_when_it_changes_and_for_programs_never() {
        let progress = Progress::with(Output::new(false), Mode::InPlace);
        let now = Instant::now();
        assert!(progress.due("init: 1 s", now).is_some());
        assert!(progress.due("init: 1 s", now).is_none());
        assert!(progress.due("init: 2 s", now).is_some());
        progress.state.borrow_mut().shown.clear();
        let silent = Progress::with(Output::new(true), Mode::Silent);
        assert!(silent.due("init: 1 s", now + INTERVAL * 2).is_none());
    }
}
