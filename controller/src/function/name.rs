//! Function names, and their ARNs.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes.
const MAX_NAME: usize = 64;

/// 1 to 64 of `a-z A-Z 0-9 - _`: safe as a path component and in an ARN.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct FunctionName(Arc<str>);

/// A text is not a function's name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a function name: expected 1 to {MAX_NAME} of a-z A-Z 0-9 - _")]
pub(crate) struct BadName(String);

impl FunctionName {
    pub(crate) fn parse(name: &str) -> Result<Self, BadName> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(fine) {
            return Err(BadName(name.into()));
        }
        Ok(Self(name.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FunctionName {
    type Error = BadName;

    fn try_from(name: String) -> Result<Self, BadName> {
        Self::parse(&name)
    }
}

impl From<FunctionName> for String {
    fn from(name: FunctionName) -> Self {
        name.0.as_ref().into()
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The region and account in this controller's ARNs.
#[derive(Debug, Clone)]
pub(crate) struct ArnScope {
    pub(crate) region: String,
    pub(crate) account: String,
}

impl ArnScope {
    /// The ARN of a function, unqualified.
    pub(crate) fn arn(&self, name: &FunctionName) -> String {
        self.arn_of(name.as_str())
    }

    /// The ARN of a function with a qualifier.
    pub(crate) fn qualified_arn(
        &self,
        name: &FunctionName,
        qualifier: impl fmt::Display,
    ) -> String {
        self.arn_of(&format!("{name}:{qualifier}"))
    }

    /// The ARN of a function, with its qualifier if there is one.
    pub(crate) fn function_arn(&self, name: &FunctionName, qualifier: Option<&str>) -> String {
        match qualifier {
            Some(qualifier) => self.qualified_arn(name, qualifier),
            None => self.arn(name),
        }
    }

    /// The ARN of a function whose name, with or without a qualifier, is `name`. It need not be valid.
    pub(crate) fn arn_of(&self, name: &str) -> String {
        self.lambda_arn(&format!("function:{name}"))
    }

    /// The ARN of a Lambda resource.
    pub(super) fn lambda_arn(&self, resource: &str) -> String {
        let partition = self.partition();
        format!(
            "arn:{partition}:lambda:{}:{}:{resource}",
            self.region, self.account
        )
    }

    /// The partition of the region, which is the second part of an ARN.
    pub(crate) fn partition(&self) -> &'static str {
        let others = [
            ("cn-", "aws-cn"),
            ("us-gov-", "aws-us-gov"),
            ("us-iso-", "aws-iso"),
            ("us-isob-", "aws-iso-b"),
            ("us-isof-", "aws-iso-f"),
            ("eu-isoe-", "aws-iso-e"),
        ];
        let among = |(prefix, _): &&(&str, &str)| self.region.starts_with(prefix);
        others
            .iter()
            .find(among)
            .map_or("aws", |(_, partition)| partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_the_partition_of_its_region() {
        let name = FunctionName::parse("f").unwrap();
        for (region, partition) in [
            ("eu-west-1", "aws"),
            ("cn-northwest-1", "aws-cn"),
            ("us-gov-east-1", "aws-us-gov"),
            ("us-iso-east-1", "aws-iso"),
            ("us-isob-east-1", "aws-iso-b"),
        ] {
            let arn_scope = ArnScope {
                region: region.into(),
                account: "000000000000".into(),
            };
            let expected = format!("arn:{partition}:lambda:{region}:000000000000:function:f");
            assert_eq!(arn_scope.arn(&name), expected);
        }
    }

    #[test]
    fn a_name_is_safe_as_a_path_component() {
        FunctionName::parse("a-B_9").unwrap();
        FunctionName::parse(&"x".repeat(64)).unwrap();
        for bad in ["", "a/b", "..", "a.b", "a b", "a\0", "ä", &"x".repeat(65)] {
            assert!(FunctionName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
