//! The identifiers of a function's versions: `$LATEST` and numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The qualifier of the unpublished version.
pub(crate) const LATEST: &str = "$LATEST";

/// A version of a function. In its order, `$LATEST` comes before all published versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum VersionId {
    /// `$LATEST`, which can be changed.
    Latest,
    /// A published version, from 1 on.
    Number(u32),
}

/// A text is not a version.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a version: expected $LATEST, or a number from 1 on")]
pub(crate) struct BadVersion(String);

impl VersionId {
    pub(crate) fn parse(text: &str) -> Result<Self, BadVersion> {
        if text == LATEST {
            return Ok(Self::Latest);
        }
        match text.parse::<u32>() {
            // Only the canonical spelling: neither 007 nor +7.
            Ok(number) if number > 0 && number.to_string() == text => Ok(Self::Number(number)),
            _ => Err(BadVersion(text.into())),
        }
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str(LATEST),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl TryFrom<String> for VersionId {
    type Error = BadVersion;

    fn try_from(text: String) -> Result<Self, BadVersion> {
        Self::parse(&text)
    }
}

impl From<VersionId> for String {
    fn from(version: VersionId) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_of_a_version_is_accepted() {
        for text in [LATEST, "1", "42", "4294967295"] {
            assert_eq!(VersionId::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "0", "007", "+7", "-1", "1.0", "latest", "4294967296"] {
            assert!(VersionId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(VersionId::Latest < VersionId::Number(1));
    }
}
