//! Layers: archives that are mounted at `/opt` of functions.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ArnScope, Code, Statement};

/// Longest name.
const MAX_NAME: usize = 140;

/// 1 to 140 of `a-z A-Z 0-9 - _`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct LayerName(String);

/// A text is not a layer's name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a layer name: expected 1 to {MAX_NAME} of a-z A-Z 0-9 - _")]
pub(crate) struct BadLayerName(String);

impl LayerName {
    pub(crate) fn parse(name: &str) -> Result<Self, BadLayerName> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fine) {
            Ok(Self(name.into()))
        } else {
            Err(BadLayerName(name.into()))
        }
    }
}

impl TryFrom<String> for LayerName {
    type Error = BadLayerName;

    fn try_from(name: String) -> Result<Self, BadLayerName> {
        Self::parse(&name)
    }
}

impl From<LayerName> for String {
    fn from(name: LayerName) -> Self {
        name.0
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ArnScope {
    /// The ARN of a layer.
    pub(crate) fn layer_arn(&self, name: &LayerName) -> String {
        self.lambda_arn(&format!("layer:{name}"))
    }

    /// The ARN of a version of a layer.
    pub(crate) fn layer_version_arn(&self, name: &LayerName, number: u32) -> String {
        self.lambda_arn(&format!("layer:{name}:{number}"))
    }
}

/// The registry's record of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) name: LayerName,
    /// Number of the version that was published last, even if it has been deleted since.
    pub(crate) last_version: u32,
    pub(crate) versions: BTreeMap<u32, LayerVersion>,
}

/// A version of a layer. Only its policy can change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerVersion {
    pub(crate) code: Code,
    pub(crate) description: String,
    /// `None` if the layer does not list any.
    pub(crate) compatible_runtimes: Option<Vec<String>>,
    pub(crate) compatible_architectures: Option<Vec<String>>,
    pub(crate) license: Option<String>,
    /// As Lambda writes it.
    pub(crate) created: String,
    /// `None` while it has no permission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<LayerPolicy>,
}

/// The policy of a layer version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerPolicy {
    pub(crate) statements: Vec<Statement>,
    pub(crate) revision_id: String,
}

/// A layer version of a function. The function keeps it even if the layer version is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerUse {
    pub(crate) arn: String,
    pub(crate) code: Code,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_name_fits_into_an_arn() {
        for good in ["numpy", "my-layer_2", &"x".repeat(140)] {
            LayerName::parse(good).unwrap();
        }
        for bad in ["", "a:b", "a/b", "a b", "ä", &"x".repeat(141)] {
            assert!(LayerName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
