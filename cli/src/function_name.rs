//! Names of functions as Lambda allows them: a parsed name needs no escaping in a URL.

use std::fmt;
use std::str::FromStr;

/// 1 to 64 letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FunctionName(String);

/// A text that is no function's name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NameError {
    /// Wrong length or letters.
    #[error("invalid function name {0:?}: use 1 to 64 letters, digits, - or _")]
    Name(String),
    /// Wrong length or letters, or a version.
    #[error("invalid alias {0:?}: use letters, digits, - and _, and not digits alone")]
    Alias(String),
    /// What follows the colon is neither a version nor an alias.
    #[error("invalid qualifier {0:?}: use $LATEST, a version number or an alias")]
    Qualifier(String),
    /// Not a function's ARN.
    #[error("invalid ARN {0:?}: expected arn:aws:lambda:REGION:ACCOUNT:function:NAME")]
    Arn(String),
}

impl FunctionName {
    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FunctionName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Name(text.to_owned()))
        }
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 1 to 128 letters, digits, `-` and `_`, and not digits alone: those are versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AliasName(String);

impl AliasName {
    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AliasName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let digits = text.bytes().all(|c| c.is_ascii_digit());
        if (1..=128).contains(&text.len()) && text.bytes().all(allowed) && !digits {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Alias(text.to_owned()))
        }
    }
}

impl fmt::Display for AliasName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What to invoke: a function, and perhaps which version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FunctionRef {
    /// The function.
    pub(crate) name: FunctionName,
    /// `$LATEST`, a version or an alias; the controller takes `$LATEST` for none.
    pub(crate) qualifier: Option<String>,
    /// The whole ARN, if it was given: the controller checks its region and account.
    pub(crate) arn: Option<String>,
}

impl FromStr for FunctionRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.starts_with("arn:") {
            // arn:PARTITION:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER]
            let parts: Vec<&str> = text.splitn(7, ':').collect();
            return match parts[..] {
                [_, _, "lambda", _, _, "function", name] => Ok(Self {
                    arn: Some(text.to_owned()),
                    ..name.parse()?
                }),
                _ => Err(NameError::Arn(text.to_owned())),
            };
        }
        let Some((name, qualifier)) = text.split_once(':') else {
            return Ok(Self {
                name: text.parse()?,
                qualifier: None,
                arn: None,
            });
        };
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-_$".contains(&c);
        if !(1..=128).contains(&qualifier.len()) || !qualifier.bytes().all(allowed) {
            return Err(NameError::Qualifier(qualifier.to_owned()));
        }
        Ok(Self {
            name: name.parse()?,
            qualifier: Some(qualifier.to_owned()),
            arn: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lambdas_names_are_names() {
        for good in ["f", "python-hello", "A_1", &"x".repeat(64)] {
            assert_eq!(good.parse::<FunctionName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn everything_else_is_not() {
        for bad in ["", "a b", "a/b", "../x", "ä", "a\0", "a.b", &"x".repeat(65)] {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad:?}");
        }
    }

    /// AWS's own tools take ARNs, and so does the API.
    #[test]
    fn a_functions_arn_stands_for_it() {
        let text = "arn:aws:lambda:us-east-1:000000000000:function:slow:live";
        let function: FunctionRef = text.parse().unwrap();
        assert_eq!(function.name.as_str(), "slow");
        assert_eq!(function.qualifier.as_deref(), Some("live"));
        assert_eq!(function.arn.as_deref(), Some(text));
        for bad in ["arn:aws:s3:::bucket", "arn:aws:lambda:r:1:layer:x", "arn:"] {
            assert!(
                matches!(bad.parse::<FunctionRef>(), Err(NameError::Arn(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_qualifier_follows_a_colon() {
        let live: FunctionRef = "f:live".parse().unwrap();
        assert_eq!(live.qualifier.as_deref(), Some("live"));
        assert_eq!("f".parse::<FunctionRef>().unwrap().qualifier, None);
        assert!("f:$LATEST".parse::<FunctionRef>().is_ok());
        for bad in ["f:", ":live", "f:a b", "f:a:b", "f:a?b"] {
            assert!(bad.parse::<FunctionRef>().is_err(), "{bad:?}");
        }
    }
}
