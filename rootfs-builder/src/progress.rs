//! Reports the progress of a long build.
//!
//! Builders report their steps to a [`Progress`]. [`Terminal`] shows the running step and its time
//! on one line, and leaves a line for each finished step. If standard error is not a terminal, it
//! only writes the latter.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Receives a builder's reports.
pub trait Progress: Sync {
    /// A step, such as `kernel: compiling`, is still running. Called when it
    /// starts and about once a second.
    fn running(&self, step: &str, elapsed: Duration);
    /// The step has succeeded.
    fn finished(&self, step: &str, elapsed: Duration);
}

/// Ignores all reports.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Progress for Quiet {
    fn running(&self, _: &str, _: Duration) {}
    fn finished(&self, _: &str, _: Duration) {}
}

/// Writes reports to standard error.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    interactive: bool,
}

impl Terminal {
    /// Checks whether standard error is a terminal.
    #[must_use]
    pub fn stderr() -> Self {
        Self {
            interactive: std::io::stderr().is_terminal(),
        }
    }

    fn write(line: &str) {
        // A closed standard error must not stop a build.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

impl Progress for Terminal {
    fn running(&self, step: &str, elapsed: Duration) {
        if self.interactive {
            Self::write(&format!("\r\x1b[K{step} … {}", clock(elapsed)));
        }
    }

    fn finished(&self, step: &str, elapsed: Duration) {
        let start = if self.interactive { "\r\x1b[K" } else { "" };
        Self::write(&format!("{start}{step}: {}\n", clock(elapsed)));
    }
}

/// `01:23`, or tenths of a second below ten seconds.
fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    if seconds < 10 {
        format!("{:.1} s", elapsed.as_secs_f64())
    } else {
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_time_reads_as_a_clock() {
        assert_eq!(clock(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(clock(Duration::from_secs(83)), "01:23");
    }
}
