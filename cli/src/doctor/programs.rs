//! Other programs: those that a controller calls, and those that some deploys do.

use std::process::{Command, Stdio};

use super::Check;

/// A program, how it tells its version, and what it is for.
struct Program {
    name: &'static str,
    command: &'static [&'static str],
    /// Whether no function can be deployed without it.
    needed: bool,
    advice: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "mkfs.erofs",
        // Before 1.6 there is no --version; the first line of its help has it.
        command: &["mkfs.erofs", "--help"],
        needed: true,
        advice: "it makes the images of functions: apt-get install erofs-utils",
    },
    Program {
        name: "pip",
        command: &["python3", "-m", "pip", "--version"],
        needed: false,
        advice: "`hearth deploy` needs it for folders with a requirements.txt: apt-get install \
                 python3-pip",
    },
    Program {
        name: "npm",
        command: &["npm", "--version"],
        needed: false,
        advice: "folders with a package.json need it before `hearth deploy`: apt-get install npm",
    },
    Program {
        name: "cargo",
        command: &["cargo", "--version"],
        needed: false,
        advice: "`hearth deploy` needs it for folders with a Cargo.toml: install Rust",
    },
];

/// One check for each program.
pub(super) fn check() -> Vec<Check> {
    PROGRAMS.iter().map(look).collect()
}

fn look(program: &Program) -> Check {
    let (path, arguments) = program
        .command
        .split_first()
        .expect("every command has a program");
    let output = Command::new(path)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let problem = match output {
        Ok(output) if output.status.success() => {
            return Check::ok(
                program.name,
                version(program.name, &output.stdout, &output.stderr),
            );
        }
        Ok(output) => format!("{} ends with {}", program.command.join(" "), output.status),
        Err(error) => format!("{path}: {error}"),
    };
    if program.needed {
        Check::fail(program.name, problem, program.advice)
    } else {
        Check::warn(program.name, problem, program.advice)
    }
}

/// The line that begins with the program's name, or else the first that it says, on whichever
/// stream: mkfs.erofs before 1.6 prints its version above its usage, and both on different ones.
fn version(name: &str, stdout: &[u8], stderr: &[u8]) -> String {
    let text = [stdout, b"\n", stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next();
    let named = lines.find(|line| line.starts_with(name));
    // Some print their usage and no version at all.
    let first = first.filter(|line| !line.to_lowercase().starts_with("usage"));
    named.or(first).unwrap_or("installed").to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_as_bad_as_it_is_needed() {
        let program = |needed| Program {
            name: "x",
            command: &["/nonexistent/program"],
            needed,
            advice: "get it",
        };
        assert_eq!(look(&program(true)).verdict, Verdict::Fail);
        assert_eq!(look(&program(false)).verdict, Verdict::Warn);
    }

    #[test]
    fn a_version_is_one_line_from_either_stream() {
        let erofs = version("mkfs.erofs", b"usage:\n", b"\nmkfs.erofs 1.5\n");
        assert_eq!(erofs, "mkfs.erofs 1.5");
        assert_eq!(version("pip", b"pip 23\n", b"noise"), "pip 23");
        assert_eq!(version("pip", b"x\n", b""), "x");
        assert_eq!(version("pip", b"", b""), "installed");
        let usage = b"usage: [options] FILE DIRECTORY\n";
        assert_eq!(version("mkfs.erofs", usage, b""), "installed");
    }
}
