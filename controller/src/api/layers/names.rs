//! The forms of a layer's name: the name itself, its ARN, the ARN of one of its versions.

use std::collections::BTreeMap;

use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::violations::{Violations, list};
use crate::function::{ArnScope, LayerName, LayerUse, is_region};

/// Maximum number of layers of a function.
const MAX_LAYERS: usize = 5;

const PATTERN: &str = "Member must satisfy regular expression pattern: \
    (arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\\d{12}:layer:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+";
const VERSION_PATTERN: &str = "Member must satisfy regular expression pattern: \
    arn:(aws[a-zA-Z-]*)?:lambda:[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:\\d{12}:layer:\
    [a-zA-Z0-9-_]+:[0-9]+";

const USE_CONSTRAINT: &str = "Member must satisfy constraint: [Member must have length less than or \
    equal to 140, Member must have length greater than or equal to 1, Member must satisfy regular \
    expression pattern: (arn:[a-zA-Z0-9-]+:lambda:[a-z]{2}((-gov)|(-iso(b?)))?-[a-z]+-\\d{1}:\\d{12}:\
    layer:[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+), Member must \
    not be null]";

/// A layer's name as a request gives it. There may be no such layer.
#[derive(Debug)]
pub(crate) struct LayerNamed {
    pub(crate) name: LayerName,
    version: Option<u32>,
}

impl LayerNamed {
    /// A name, or the ARN of a layer.
    pub(crate) fn parse(text: &str, arn_scope: &ArnScope) -> Result<Self, ApiError> {
        let bad = || ApiError::constraint(text, "layerName", PATTERN);
        let named = if text.starts_with("arn:") {
            Self::parse_arn(text, arn_scope).ok_or_else(bad)?
        } else {
            Self {
                name: LayerName::parse(text).map_err(|_| bad())?,
                version: None,
            }
        };
        if named.version.is_some() {
            return Err(bad());
        }
        Ok(named)
    }

    /// The ARN of a version of a layer.
    pub(crate) fn parse_version(arn: &str, arn_scope: &ArnScope) -> Result<(Self, u32), ApiError> {
        let bad = || ApiError::constraint(arn, "arn", VERSION_PATTERN);
        let named = Self::parse_arn(arn, arn_scope).ok_or_else(bad)?;
        let version = named.version.ok_or_else(bad)?;
        Ok((named, version))
    }

    /// `None` also for a layer of another region or account: this controller has none of those.
    fn parse_arn(arn: &str, arn_scope: &ArnScope) -> Option<Self> {
        let parts: Vec<&str> = arn.split(':').collect();
        let [
            "arn",
            partition,
            "lambda",
            region,
            account,
            "layer",
            name,
            version @ ..,
        ] = parts.as_slice()
        else {
            return None;
        };
        if !partition.starts_with("aws")
            || *region != arn_scope.region
            || *account != arn_scope.account
        {
            return None;
        }
        let version = match version {
            [] => None,
            [digits] => Some(digits.parse().ok()?),
            _ => return None,
        };
        let name = LayerName::parse(name).ok()?;
        Some(Self { name, version })
    }
}

/// Checks that a function's layers are ARNs of layer versions, of any region and account.
pub(crate) fn check_used_layers(violations: &mut Violations, arns: &[String]) {
    let fine = |arn: &String| {
        let parts: Vec<&str> = arn.split(':').collect();
        matches!(parts.as_slice(), ["arn", _, "lambda", region, _, "layer", _, version]
            if is_region(region) && version.parse::<u32>().is_ok())
    };
    if !arns.iter().all(fine) {
        violations.add(&list(arns), "layers", USE_CONSTRAINT);
    }
}

/// Whether the ARN of a layer's version names another region.
fn elsewhere(arn: &str, arn_scope: &ArnScope) -> bool {
    let parts: Vec<&str> = arn.split(':').collect();
    matches!(parts.as_slice(), ["arn", _, "lambda", region, _, "layer", _, _]
        if is_region(region) && *region != arn_scope.region)
}

impl App {
    /// Looks up the layers of a function's new configuration, in their order.
    pub(crate) fn layers(&self, arns: &[String]) -> Result<Vec<LayerUse>, ApiError> {
        if arns.len() > MAX_LAYERS {
            return Err(ApiError::invalid("Cannot reference more than 5 layers."));
        }
        let mut seen = BTreeMap::new();
        let mut layers = Vec::new();
        for arn in arns {
            if elsewhere(arn, &self.arn_scope) {
                return Err(ApiError::invalid(format!(
                    "Layers are not in the same region as the function. Layers are expected to be \
                     in region {}.",
                    self.arn_scope.region
                )));
            }
            let Ok((named, number)) = LayerNamed::parse_version(arn, &self.arn_scope) else {
                return Err(ApiError::constraint(&list(arns), "layers", USE_CONSTRAINT));
            };
            let layer = self.catalog.layer(&named.name);
            let version = layer.as_ref().and_then(|layer| layer.versions.get(&number));
            let Some(version) = version else {
                return Err(ApiError::invalid(format!(
                    "Layer version {arn} does not exist."
                )));
            };
            if let Some(first) = seen.insert(named.name, arn) {
                return Err(ApiError::invalid(format!(
                    "Two different versions of the same layer are not allowed to be referenced in \
                     the same function. {first} and {arn} are versions of the same layer."
                )));
            }
            layers.push(LayerUse {
                arn: arn.clone(),
                code: version.code.clone(),
            });
        }
        Ok(layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_of_another_region_is_known_by_its_arn() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:layer:l:1";
        assert!(!elsewhere(arn, &arn_scope()));
        assert!(elsewhere(
            &arn.replace("us-east-1", "eu-west-1"),
            &arn_scope()
        ));
        for bad in [
            "l",
            "arn:aws:lambda:eu-west-1:000000000000:layer:l",
            &arn.replace("us-east-1", "here"),
        ] {
            assert!(!elsewhere(bad, &arn_scope()), "{bad}");
        }
    }

    fn arn_scope() -> ArnScope {
        ArnScope {
            region: "us-east-1".into(),
            account: "000000000000".into(),
        }
    }

    #[test]
    fn a_layer_is_named_by_itself_or_by_its_arn_and_a_version_by_its_arn_alone() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:layer:l";
        for text in ["l", arn] {
            let named = LayerNamed::parse(text, &arn_scope()).unwrap();
            assert_eq!(named.name.to_string(), "l");
        }
        let (named, version) =
            LayerNamed::parse_version(&format!("{arn}:7"), &arn_scope()).unwrap();
        assert_eq!((named.name.to_string().as_str(), version), ("l", 7));
        for bad in ["", "a b", "l:7", &format!("{arn}:7"), &format!("{arn}:x")] {
            assert!(LayerNamed::parse(bad, &arn_scope()).is_err(), "{bad:?}");
        }
        for bad in [
            "l".to_owned(),
            arn.to_owned(),
            format!("{arn}:"),
            format!("{arn}:-1"),
            format!("{arn}:7:8"),
            format!("{arn}:7").replace("us-east-1", "eu-west-1"),
            format!("{arn}:7").replace("000000000000", "123456789012"),
        ] {
            assert!(
                LayerNamed::parse_version(&bad, &arn_scope()).is_err(),
                "{bad:?}"
            );
        }
    }
}
