//! Aliases: names for one version, or for two with weights.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::VersionId;

/// Longest name.
const MAX_NAME: usize = 128;

/// A function's aliases.
pub(crate) type Aliases = BTreeMap<AliasName, AliasRecord>;

/// 1 to 128 of `a-z A-Z 0-9 - _`, but not a number: numbers are versions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct AliasName(String);

/// A text is not an alias's name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an alias name: expected 1 to {MAX_NAME} of a-z A-Z 0-9 - _, not only digits")]
pub(crate) struct BadAlias(String);

impl AliasName {
    pub(crate) fn parse(name: &str) -> Result<Self, BadAlias> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let good = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(fine)
            && !name.bytes().all(|b| b.is_ascii_digit());
        if good {
            Ok(Self(name.into()))
        } else {
            Err(BadAlias(name.into()))
        }
    }
}

impl TryFrom<String> for AliasName {
    type Error = BadAlias;

    fn try_from(name: String) -> Result<Self, BadAlias> {
        Self::parse(&name)
    }
}

impl From<AliasName> for String {
    fn from(name: AliasName) -> Self {
        name.0
    }
}

impl Borrow<str> for AliasName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AliasName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The versions that an alias names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AliasRecord {
    pub(crate) version: VersionId,
    pub(crate) description: String,
    /// A second version that gets a part of the invocations.
    pub(crate) additional: Option<Weighted>,
    /// Changes on every write.
    pub(crate) revision_id: String,
}

/// A published version and its share of the invocations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Weighted {
    pub(crate) number: u32,
    /// 0 to 1.
    pub(crate) weight: f64,
}

impl AliasRecord {
    /// The version for the next invocation, chosen at random by weight.
    pub(crate) fn draw(&self) -> VersionId {
        // All bits of the last four bytes of a version 4 UUID are random.
        let [.., a, b, c, d] = uuid::Uuid::new_v4().into_bytes();
        let drawn = f64::from(u32::from_le_bytes([a, b, c, d])) / 4_294_967_296.0;
        self.pick(drawn)
    }

    /// The version for a random number from 0 up to, but not including, 1.
    fn pick(&self, drawn: f64) -> VersionId {
        match self.additional {
            Some(additional) if drawn < additional.weight => VersionId::Number(additional.number),
            _ => self.version,
        }
    }

    /// Whether the alias names this version.
    pub(crate) fn uses(&self, version: VersionId) -> bool {
        let additional = self.additional.map(|a| VersionId::Number(a.number));
        self.version == version || additional == Some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_name_is_never_that_of_a_version() {
        for good in ["live", "v1", "1a", "-", "_9", &"x".repeat(128)] {
            AliasName::parse(good).unwrap();
        }
        for bad in [
            "",
            "1",
            "007",
            "$LATEST",
            "a b",
            "a:b",
            "ä",
            &"x".repeat(129),
        ] {
            assert!(AliasName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn invocations_are_distributed_by_weight() {
        let mut alias = AliasRecord {
            version: VersionId::Number(1),
            description: String::new(),
            additional: Some(Weighted {
                number: 2,
                weight: 0.25,
            }),
            revision_id: String::new(),
        };
        let picked: Vec<VersionId> = [0.0, 0.2499, 0.25, 0.9999]
            .map(|drawn| alias.pick(drawn))
            .into();
        let (one, two) = (VersionId::Number(1), VersionId::Number(2));
        assert_eq!(picked, [two, two, one, one]);
        let drawn = (0..4000).filter(|_| alias.draw() == two).count();
        // Five standard deviations.
        assert!((863..=1137).contains(&drawn), "{drawn} of 4000");
        for (weight, always) in [(0.0, one), (1.0, two)] {
            alias.additional = Some(Weighted { number: 2, weight });
            assert!((0..1000).all(|_| alias.draw() == always));
        }
    }
}
