//! SHA-256 of files, and of the inputs that identify an artefact.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Encodes bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// SHA-256 of everything that `reader` returns, as hexadecimal.
pub(crate) fn of_reader(mut reader: impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// SHA-256 of a file's content, as hexadecimal.
pub(crate) fn of_file(path: &Path) -> io::Result<String> {
    of_reader(File::open(path)?)
}

/// An artefact's key: a hash over its named inputs.
///
/// Names and values are length-prefixed, so that two different lists of inputs can't give the same
/// bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Key(Sha256);

impl Key {
    /// Starts a key for one kind of artefact.
    pub(crate) fn new(kind: &str) -> Self {
        Self::default().with("kind", kind.as_bytes())
    }

    /// Adds an input.
    pub(crate) fn with(mut self, name: &str, value: &[u8]) -> Self {
        for part in [name.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds the code of a Rust source file, because what the code does is an input as well.
    ///
    /// Lines that are empty or only a comment, and the test module at the end, are left out: they
    /// can't change an artefact. No line of a string literal in such a file may begin with `//`, or
    /// a change to that line keeps the old artefact.
    pub(crate) fn with_code(mut self, name: &str, source: &str) -> Self {
        let (code, _tests) = source.split_once("\n#[cfg(test)]").unwrap_or((source, ""));
        for line in code.lines() {
            let line = line.trim_start();
            if !line.is_empty() && !line.starts_with("//") {
                self = self.with(name, line.as_bytes());
            }
        }
        self
    }

    /// 32 hexadecimal digits: enough to be unique, short enough for a path.
    pub(crate) fn finish(self) -> String {
        hex(&self.0.finalize()[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_of_known_bytes() {
        assert_eq!(
            of_reader(&b"abc"[..]).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn inputs_cannot_run_into_each_other() {
        let one = Key::new("k").with("a", b"bc").finish();
        let other = Key::new("k").with("ab", b"c").finish();
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
    }

    #[test]
    fn comments_and_tests_are_no_part_of_the_code_and_every_other_line_is() {
        let key = |source| Key::new("k").with_code("recipe", source).finish();
        let code = key("//! Doc.\n\nfn a() {\n    // Why.\n    b(1);\n}\n");
        assert_eq!(
            code,
            key("fn a() {\n    b(1);\n}\n\n#[cfg(test)]\nmod tests {}\n")
        );
        assert_ne!(code, key("fn a() {\n    b(2);\n}\n"));
    }
}
