//! Runs the programs that a build needs, with errors that say what to do.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::progress::Progress;

/// Number of output lines that an error shows.
const TAIL_LINES: usize = 15;

/// Why a program has failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not installed.
    #[error("`{program}` is not installed; {advice}")]
    Missing {
        /// The program's name.
        program: String,
        /// What to do.
        advice: String,
    },
    /// It could not be started or waited for.
    #[error("cannot run `{command}`: {source}")]
    Run {
        /// The command line.
        command: String,
        /// The error.
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("`{command}` failed ({status}); {advice}\n{output}")]
    Failed {
        /// The command line.
        command: String,
        /// Exit status or signal.
        status: ExitStatus,
        /// Its last lines of output.
        output: String,
        /// What to do.
        advice: String,
    },
}

/// A program to run as a step of a build.
#[derive(Debug)]
pub(crate) struct Tool {
    command: Command,
    program: OsString,
    package: &'static str,
    advice: Option<String>,
}

impl Tool {
    /// A program from the Debian package `package`.
    pub(crate) fn new(program: impl AsRef<OsStr>, package: &'static str) -> Self {
        let program = program.as_ref().to_owned();
        let mut command = Command::new(&program);
        // Users read the messages and tests search them, so their language must not depend on the
        // host.
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        Self {
            command,
            program,
            package,
            advice: None,
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn current_dir(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    /// What to do when the program fails. Without it, the error only shows the output.
    pub(crate) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Runs the program as one step of a build. Its output is only shown in an error.
    pub(crate) fn run(self, step: &str, progress: &dyn Progress) -> Result<(), CommandError> {
        let started = Instant::now();
        progress.running(step, started.elapsed());
        self.run_to_end(&mut || progress.running(step, started.elapsed()))?;
        progress.finished(step, started.elapsed());
        Ok(())
    }

    /// Runs the program without reporting a step, and returns its standard output.
    pub(crate) fn output(mut self) -> Result<String, CommandError> {
        let line = self.line();
        let out = self
            .command
            .output()
            .map_err(|source| self.start_error(source))?;
        if !out.status.success() {
            return Err(CommandError::Failed {
                command: line,
                status: out.status,
                output: tail(
                    String::from_utf8_lossy(&[out.stdout, b"\n".to_vec(), out.stderr].concat())
                        .lines(),
                ),
                advice: self.advice_text(),
            });
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn run_to_end(mut self, tick: &mut dyn FnMut()) -> Result<(), CommandError> {
        let line = self.line();
        let run = |source| CommandError::Run {
            command: line.clone(),
            source,
        };
        // One pipe for both streams keeps the order of the lines.
        let (reader, writer) = io::pipe().map_err(run)?;
        let second = writer.try_clone().map_err(run)?;
        self.command.stdout(writer).stderr(second);
        let mut child = self
            .command
            .spawn()
            .map_err(|source| self.start_error(source))?;
        // `command` still holds the writing ends of the pipe. Without this the reader would never
        // see the end of the output.
        self.command.stdout(Stdio::null()).stderr(Stdio::null());

        let (send, lines) = mpsc::channel();
        let reading = std::thread::spawn(move || {
            for bytes in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                if send
                    .send(String::from_utf8_lossy(&bytes).trim_end().to_owned())
                    .is_err()
                {
                    return;
                }
            }
        });
        let mut last = VecDeque::with_capacity(TAIL_LINES);
        let mut ticked = Instant::now();
        loop {
            match lines.recv_timeout(Duration::from_millis(500)) {
                Ok(line) => {
                    if last.len() == TAIL_LINES {
                        last.pop_front();
                    }
                    last.push_back(line);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if ticked.elapsed() >= Duration::from_millis(500) {
                ticked = Instant::now();
                tick();
            }
        }
        let status = child.wait().map_err(run)?;
        reading.join().expect("the reader only reads and sends");
        if status.success() {
            return Ok(());
        }
        Err(CommandError::Failed {
            command: line,
            status,
            output: tail(last.iter().map(String::as_str)),
            advice: self.advice_text(),
        })
    }

    fn start_error(&self, source: io::Error) -> CommandError {
        if source.kind() == io::ErrorKind::NotFound {
            return CommandError::Missing {
                program: self.program.to_string_lossy().into_owned(),
                advice: format!("install it: apt-get install {}", self.package),
            };
        }
        CommandError::Run {
            command: self.line(),
            source,
        }
    }

    fn advice_text(&self) -> String {
        self.advice
            .clone()
            .unwrap_or_else(|| "the end of its output:".to_owned())
    }

    /// The command line as text.
    fn line(&self) -> String {
        let mut line = self.program.to_string_lossy().into_owned();
        for arg in self.command.get_args() {
            line.push(' ');
            line.push_str(&arg.to_string_lossy());
        }
        line
    }
}

fn tail<'a>(lines: impl DoubleEndedIterator<Item = &'a str>) -> String {
    let mut last: Vec<&str> = lines
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(TAIL_LINES)
        .collect();
    last.reverse();
    last.iter()
        .map(|line| format!("  | {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Quiet;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = Tool::new("no-such-tool-here", "erofs-utils")
            .run("x", &Quiet)
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no-such-tool-here"), "{text}");
        assert!(text.contains("apt-get install erofs-utils"), "{text}");
    }

    #[test]
    fn a_failure_shows_command_status_advice_and_last_lines() {
        let error = Tool::new("sh", "dash")
            .args([
                "-c",
                "for i in $(seq 40); do echo line $i; done; echo why >&2; exit 3",
            ])
            .advice("try again")
            .run("x", &Quiet)
            .unwrap_err()
            .to_string();
        assert!(error.contains("sh -c"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("try again"), "{error}");
        assert!(
            error.contains("| why") && error.contains("| line 40"),
            "{error}"
        );
        assert!(!error.contains("| line 5\n"), "{error}");
    }

    #[test]
    fn output_is_what_was_printed() {
        assert_eq!(
            Tool::new("echo", "coreutils").arg("hi").output().unwrap(),
            "hi\n"
        );
    }
}
