//! Reads the event of an invocation: the text, file or standard input that `-d` names.

use std::io::Read;
use std::path::PathBuf;

/// Largest event in bytes, as Lambda counts.
const MAX_EVENT: u64 = 6 * 1024 * 1024 + 100;

/// Why there is no event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventError {
    /// A file can't be read.
    #[error("event file {path}: {source}; `-d @FILE` reads a file, `-d -` standard input")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Standard input can't be read.
    #[error("event from standard input: {0}")]
    Stdin(std::io::Error),
    /// Too long.
    #[error("the event has more than {MAX_EVENT} bytes, the limit for a synchronous invocation")]
    TooLong,
}

/// Reads the event: `data` is JSON, `@FILE`, or `-` for standard input.
pub(crate) fn read(data: &str) -> Result<Vec<u8>, EventError> {
    if data == "-" {
        return limited(std::io::stdin().lock(), EventError::Stdin);
    }
    let Some(path) = data.strip_prefix('@') else {
        return limited(data.as_bytes(), EventError::Stdin);
    };
    let file_error = |source| EventError::File {
        path: path.into(),
        source,
    };
    limited(std::fs::File::open(path).map_err(file_error)?, file_error)
}

fn limited(
    reader: impl Read,
    error: impl FnOnce(std::io::Error) -> EventError,
) -> Result<Vec<u8>, EventError> {
    let mut event = Vec::new();
    reader
        .take(MAX_EVENT + 1)
        .read_to_end(&mut event)
        .map_err(error)?;
    if event.len() as u64 > MAX_EVENT {
        return Err(EventError::TooLong);
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stands_for_itself_and_a_file_for_its_bytes() {
        assert_eq!(read(r#"{"a":1}"#).unwrap(), br#"{"a":1}"#);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"[\xff]").unwrap();
        let argument = format!("@{}", file.path().display());
        assert_eq!(read(&argument).unwrap(), b"[\xff]");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read("@/nonexistent/event.json").unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/event.json"),
            "{error}"
        );
    }

    #[test]
    fn one_byte_over_the_limit_is_too_long() {
        let longest = vec![b' '; usize::try_from(MAX_EVENT).unwrap()];
        assert!(limited(&longest[..], EventError::Stdin).is_ok());
        let longer = [&longest[..], b" "].concat();
        assert!(matches!(
            limited(&longer[..], EventError::Stdin),
            Err(EventError::TooLong)
        ));
    }
}
