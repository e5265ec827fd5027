//! The ZIP. Names in order, one fixed time, modes reduced to "may be run or not": the same files
//! make the same bytes, so that an unchanged folder is seen to be unchanged.

use std::fs::File;
use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::{Entry, PackageError};

/// Packs `entries`, which are in order already.
pub(super) fn zip(entries: &[Entry]) -> Result<Vec<u8>, PackageError> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        let zip_error = |source| PackageError::Zip {
            name: entry.name.clone(),
            source,
        };
        let read_error = |source| PackageError::Read {
            path: entry.source.clone(),
            source,
        };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::DEFAULT)
            .unix_permissions(if entry.executable { 0o755 } else { 0o644 });
        writer.start_file(&entry.name, options).map_err(zip_error)?;
        let mut file = File::open(&entry.source).map_err(read_error)?;
        std::io::copy(&mut file, &mut writer).map_err(read_error)?;
        writer.flush().map_err(read_error)?;
    }
    let whole = |source| PackageError::Zip {
        name: "the end of the archive".to_owned(),
        source,
    };
    Ok(writer.finish().map_err(whole)?.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn content_and_modes_survive() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("s");
        let content = b"#!/bin/sh\necho \xff\n".repeat(1000);
        std::fs::write(&source, &content).unwrap();
        let entry = |name: &str, executable| Entry {
            name: name.to_owned(),
            source: source.clone(),
            executable,
        };
        let bytes = zip(&[entry("a/ä.py", false), entry("bootstrap", true)]).unwrap();
        assert!(bytes.len() < content.len(), "compressed");

        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mode =
            |file: &zip::read::ZipFile<'_, Cursor<Vec<u8>>>| file.unix_mode().unwrap() & 0o777;
        let mut library = archive.by_name("a/ä.py").unwrap();
        assert_eq!(mode(&library), 0o644);
        let mut read = Vec::new();
        library.read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        drop(library);
        assert_eq!(mode(&archive.by_name("bootstrap").unwrap()), 0o755);
    }

    #[test]
    fn a_file_that_went_away_is_named() {
        let gone = Entry {
            name: "gone.py".into(),
            source: "/nonexistent/gone.py".into(),
            executable: false,
        };
        let error = zip(&[gone]).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/gone.py"),
            "{error}"
        );
    }
}
