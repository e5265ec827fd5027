//! The errors of a code package.

use std::io;
use std::path::{Path, PathBuf};

use crate::erofs::ErofsError;

/// Why no function image could be made.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The archive is too large.
    #[error("the archive has {size} bytes; the limit is {limit}")]
    ZippedTooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The files together are too large.
    #[error("the package's files have {size} bytes or more; the limit is {limit}")]
    UnzippedTooLarge {
        /// Their size in bytes when the limit was exceeded.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// There are too many files, folders and links.
    #[error("the package has {count} entries or more; the limit is {limit}")]
    TooManyEntries {
        /// Their number when the limit was exceeded.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// The package is empty.
    #[error("the package is empty")]
    Empty,
    /// There is no end-of-archive record: the file is no ZIP archive, or truncated.
    #[error("not a ZIP archive, or cut off: no end-of-archive record in its {size} bytes")]
    NotAnArchive {
        /// The file's size in bytes.
        size: usize,
    },
    /// Records contradict each other, point outside of the archive, or are truncated.
    #[error("damaged archive: {what}")]
    Damaged {
        /// What is wrong.
        what: String,
    },
    /// Two entries claim the same bytes of the archive.
    #[error("the data of {name:?} overlaps another entry's")]
    Overlap {
        /// The later of the two.
        name: String,
    },
    /// An entry is encrypted, so the function could not read it.
    #[error("{name:?} is encrypted")]
    Encrypted {
        /// The entry.
        name: String,
    },
    /// An entry is compressed with another method than stored or deflate, the ones that Lambda
    /// supports.
    #[error(
        "{name:?} is compressed with method {method}; only 0 (stored) and 8 (deflate) are known"
    )]
    UnknownMethod {
        /// The entry.
        name: String,
        /// Number of the compression method.
        method: u16,
    },
    /// A name is no path inside of the package.
    #[error("the name {name:?} {why}")]
    BadName {
        /// The name, with invalid characters replaced.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name appears twice, or a file has the name of a folder that another entry needs.
    #[error("{name:?} is in the package twice, or is both a file and a folder")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A link leads out of the package or in a circle.
    #[error("the link {name:?} to {target:?} {why}")]
    BadLink {
        /// The link.
        name: String,
        /// Where it points.
        target: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An entry is a device, pipe or socket.
    #[error("{name:?} is neither a file nor a folder nor a link (mode {mode:#o})")]
    SpecialFile {
        /// The entry.
        name: String,
        /// Its mode.
        mode: u32,
    },
    /// A file's content differs from what the archive declares.
    #[error("the content of {name:?} is damaged: {what}")]
    BadContent {
        /// The file.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A file or folder on this host could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The image could not be made.
    #[error(transparent)]
    Image(#[from] ErofsError),
}

impl FunctionError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    /// Lambda's message for such a package (`InvalidParameterValueException`), or `None` if this
    /// host is at fault.
    #[must_use]
    pub fn lambda_message(&self) -> Option<&'static str> {
        match self {
            Self::ZippedTooLarge { .. } => Some("Zipped size must be smaller than 52428800 bytes"),
            Self::UnzippedTooLarge { .. } => {
                Some("Unzipped size must be smaller than 262144000 bytes")
            }
            Self::Io { .. } | Self::Image(_) => None,
            _ => Some(
                "Could not unzip uploaded file. Please check your file, then try to upload again.",
            ),
        }
    }
}
