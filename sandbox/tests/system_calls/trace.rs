//! strace's record of a sandbox, from the moment at which each thread has its filter.

use std::path::Path;

use crate::support::MAILBOX_FD;

/// A kind of thread, which has its own filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thread {
    Main,
    Vcpu,
}

/// A system call behind a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) thread: Thread,
    pub(crate) process: u64,
    /// The process's mailbox: the controller's socket, and the eventfd that wakes a waiting thread.
    pub(crate) mailbox: [u64; 2],
    pub(crate) number: libc::c_long,
    pub(crate) arguments: Vec<u64>,
}

/// All calls in the files of this folder, which belong to one process.
pub(crate) fn read(folder: &Path) -> Vec<Call> {
    let mut files: Vec<(u64, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let number = path.extension().unwrap().to_str().unwrap().parse().unwrap();
            (number, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    // The process's id is that of the first thread, which began with `execve`.
    let process = files
        .iter()
        .find(|(_, text)| text.contains(" execve("))
        .unwrap();
    let (process, mailbox) = (process.0, mailbox(&process.1));
    let mut calls = Vec::new();
    for (number, text) in &files {
        let thread = if *number == process {
            Thread::Main
        } else {
            Thread::Vcpu
        };
        let lines: Vec<&str> = text.lines().collect();
        // A thread without a filter has ended before it got one.
        let filter = lines.iter().rposition(|line| line.contains(" seccomp("));
        let filter = filter.unwrap_or_else(|| panic!("thread {number} has no filter: {text}"));
        calls.extend(
            lines[filter + 1..]
                .iter()
                .filter_map(|line| parse(line, thread, (process, mailbox))),
        );
    }
    calls
}

/// The eventfd is made right after the socket is set to non-blocking.
fn mailbox(main: &str) -> [u64; 2] {
    let socket = format!("ioctl({MAILBOX_FD:#x}, 0x5421,");
    let made = main
        .lines()
        .skip_while(|line| !line.contains(&socket))
        .find(|line| line.contains(" eventfd2("));
    let made = made.unwrap_or_else(|| panic!("no mailbox is made: {main}"));
    let (_, number) = made.rsplit_once("= ").unwrap();
    let wake = match number.trim().strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => number.trim().parse().unwrap(),
    };
    [u64::try_from(MAILBOX_FD).unwrap(), wake]
}

/// `[  16] ioctl(0x8, 0xae80, 0) = 0`
fn parse(line: &str, thread: Thread, (process, mailbox): (u64, [u64; 2])) -> Option<Call> {
    let (number, rest) = line.strip_prefix('[')?.split_once(']')?;
    let (arguments, _) = rest.split_once('(')?.1.split_once([')', '<'])?;
    let arguments = arguments
        .split(',')
        .map(str::trim)
        .filter(|argument| !argument.is_empty())
        .map(|argument| match argument.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
            None => argument.parse::<i64>().unwrap().cast_unsigned(),
        })
        .collect();
    Some(Call {
        thread,
        process,
        mailbox,
        number: number.trim().parse().unwrap(),
        arguments,
    })
}
