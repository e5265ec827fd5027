//! What strace wrote down of a sandbox, from the moment on at which each thread had its filter.

use std::path::Path;

/// A kind of thread, and so a filter.
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
    pub(crate) number: libc::c_long,
    pub(crate) arguments: Vec<u64>,
}

/// All calls in the files in this folder, each folder having one process's.
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
    // The first thread's number is the process's, and it began with the program.
    let process = files
        .iter()
        .find(|(_, text)| text.contains(" execve("))
        .unwrap()
        .0;
    let mut calls = Vec::new();
    for (number, text) in &files {
        let thread = if *number == process {
            Thread::Main
        } else {
            Thread::Vcpu
        };
        let lines: Vec<&str> = text.lines().collect();
        // A thread without a filter of its own is one that ended before it had any.
        let filter = lines.iter().rposition(|line| line.contains(" seccomp("));
        let filter = filter.unwrap_or_else(|| panic!("thread {number} has no filter: {text}"));
        calls.extend(
            lines[filter + 1..]
                .iter()
                .filter_map(|line| parse(line, thread, process)),
        );
    }
    calls
}

/// `[  16] ioctl(0x8, 0xae80, 0) = 0`
fn parse(line: &str, thread: Thread, process: u64) -> Option<Call> {
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
        number: number.trim().parse().unwrap(),
        arguments,
    })
}
