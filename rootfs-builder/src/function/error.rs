//! What can be wrong with a code package, each thing by its own name.

use crate::erofs::ErofsError;
use std::io;
use std::path::{Path, PathBuf};

/// Why no function image was made.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The archive itself is too large.
    #[error("the archive has {size} bytes; the limit is {limit}")]
    ZippedTooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The files together are too large.
    #[error("the package's files have {size} bytes or more; the limit is {limit}")]
    UnzippedTooLarge {
        /// The sum when the limit was passed.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Too many files, folders and links.
    #[error("the package has {count} entries or more; the limit is {limit}")]
    TooManyEntries {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// There is nothing in it.
    #[error("the package is empty")]
    Empty,
    /// No end-of-archive record: not a ZIP, or cut off.
    #[error("not a ZIP archive, or cut off: no end-of-archive record in its {size} bytes")]
    NotAnArchive {
        /// The size of what was given.
        size: usize,
    },
    /// Records contradict each other, point outside the archive, or are cut off.
    #[error("damaged archive: {what}")]
    Damaged {
        /// What doesn't fit.
        what: String,
    },
    /// Two entries claim the same bytes of the archive.
    #[error("the data of {name:?} overlaps another entry's")]
    Overlap {
        /// The later of the two.
        name: String,
    },
    /// Encrypted entries can't be read by a function.
    #[error("{name:?} is encrypted")]
    Encrypted {
        /// Which.
        name: String,
    },
    /// Only stored and deflated entries are understood, as on Lambda.
    #[error(
        "{name:?} is compressed with method {method}; only 0 (stored) and 8 (deflate) are known"
    )]
    UnknownMethod {
        /// Which.
        name: String,
        /// The archive's number of the method.
        method: u16,
    },
    /// A name that is no path inside the package.
    #[error("the name {name:?} {why}")]
    BadName {
        /// The name, damaged characters replaced.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The same name twice, or a file where another entry needs a folder.
    #[error("{name:?} is in the package twice, or is both a file and a folder")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A link that leads out of the package, or nowhere but in a circle.
    #[error("the link {name:?} to {target:?} {why}")]
    BadLink {
        /// The link.
        name: String,
        /// Where it points.
        target: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A device, pipe or socket.
    #[error("{name:?} is neither a file nor a folder nor a link (mode {mode:#o})")]
    SpecialFile {
        /// Which.
        name: String,
        /// Its mode.
        mode: u32,
    },
    /// The content isn't what the archive says it is.
    #[error("the content of {name:?} is damaged: {what}")]
    BadContent {
        /// Which.
        name: String,
        /// What doesn't fit.
        what: &'static str,
    },
    /// A file or folder on this host.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Making the image failed.
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

    /// What Lambda answers to such a package (`InvalidParameterValueException`),
    /// or `None` when the package is not to blame but this host.
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
