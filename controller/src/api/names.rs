//! The ways of naming a function: `f`, `f:qualifier`, `account:function:f`, a full ARN.

use super::error::ApiError;
use super::region::is_region;
use crate::function::{FunctionName, LATEST, Place};

/// Longest text that names a function.
const MAX_NAMED: usize = 256;
/// Longest qualifier.
const MAX_QUALIFIER: usize = 128;

const PATTERN: &str = "Member must satisfy regular expression pattern: \
    (arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:)?(\\d{12}:)?\
    (function:)?([a-zA-Z0-9-_]+)(:(\\$LATEST|[a-zA-Z0-9-_]+))?";

/// A function that somebody speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: FunctionName,
    pub(crate) qualifier: Option<String>,
}

impl Named {
    /// Parses a path segment, already percent-decoded, and the query's `Qualifier`.
    pub(crate) fn parse(
        text: &str,
        qualifier: Option<&str>,
        place: &Place,
    ) -> Result<Self, ApiError> {
        let bad = || ApiError::constraint(text, "functionName", PATTERN);
        if text.len() > MAX_NAMED {
            let limit = format!("Member must have length less than or equal to {MAX_NAMED}");
            return Err(ApiError::constraint(text, "functionName", &limit));
        }
        let parts: Vec<&str> = text.split(':').collect();
        let mut rest = parts.as_slice();
        if let ["arn", partition, "lambda", after @ ..] = rest {
            let fine = |b: u8| b.is_ascii_alphabetic() || b == b'-';
            if !partition.starts_with("aws") || !partition.bytes().all(fine) {
                return Err(bad());
            }
            rest = after;
        }
        let mut region = None;
        if let [first, after @ ..] = rest
            && is_region(first)
            && !after.is_empty()
        {
            region = Some(*first);
            rest = after;
        }
        let mut account = None;
        if let [first, after @ ..] = rest
            && first.len() == 12
            && first.bytes().all(|b| b.is_ascii_digit())
            && matches!(after, ["function", _, ..])
        {
            account = Some(*first);
            rest = after;
        }
        if let ["function", after @ ..] = rest
            && !after.is_empty()
        {
            rest = after;
        }
        let (name, own) = match rest {
            [name] => (*name, None),
            [name, own] => (*name, Some(*own)),
            _ => return Err(bad()),
        };
        let name = FunctionName::parse(name).map_err(|_| bad())?;
        if own.is_some_and(|own| !is_qualifier(own)) {
            return Err(bad());
        }
        if let Some(asked) = qualifier
            && !is_qualifier(asked)
        {
            return Err(ApiError::constraint(
                asked,
                "qualifier",
                "Member must satisfy regular expression pattern: (|[a-zA-Z0-9$_-]+)",
            ));
        }
        let qualifier = match (own, qualifier) {
            (Some(own), Some(asked)) if own != asked => {
                return Err(ApiError::invalid(
                    "The derived qualifier from the function name does not match the specified \
                     qualifier.",
                ));
            }
            (own, asked) => own.or(asked).map(str::to_owned),
        };
        let elsewhere = region.is_some_and(|region| region != place.region)
            || account.is_some_and(|account| account != place.account);
        if elsewhere {
            return Err(ApiError::function_not_found(text));
        }
        Ok(Self { name, qualifier })
    }

    /// The ARN that was asked for.
    pub(crate) fn arn(&self, place: &Place) -> String {
        match &self.qualifier {
            Some(qualifier) => place.qualified_arn(&self.name, qualifier),
            None => place.arn(&self.name),
        }
    }

    /// Refuses what names anything but `$LATEST`: that alone can be changed.
    pub(crate) fn latest(&self, place: &Place) -> Result<(), ApiError> {
        match self.qualifier.as_deref() {
            None | Some(LATEST) => Ok(()),
            Some(_) => Err(ApiError::function_not_found(&self.arn(place))),
        }
    }
}

fn is_qualifier(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let body = text.strip_prefix('$').unwrap_or(text);
    !body.is_empty()
        && text.len() <= MAX_QUALIFIER
        && body.bytes().all(fine)
        && (body.len() == text.len() || text == LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            region: "us-east-1".into(),
            account: "000000000000".into(),
        }
    }

    #[test]
    fn every_form_names_the_function() {
        for (text, qualifier) in [
            ("f", None),
            ("f:$LATEST", Some(LATEST)),
            ("f:live", Some("live")),
            ("function:f", None),
            ("000000000000:function:f", None),
            ("000000000000:function:f:7", Some("7")),
            ("us-east-1:000000000000:function:f", None),
            ("arn:aws:lambda:us-east-1:000000000000:function:f", None),
            (
                "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST",
                Some(LATEST),
            ),
        ] {
            let named = Named::parse(text, None, &place()).unwrap();
            assert_eq!(
                (named.name.as_str(), named.qualifier.as_deref()),
                ("f", qualifier),
                "{text}"
            );
        }
        assert_eq!(
            Named::parse("123456789012", None, &place())
                .unwrap()
                .name
                .as_str(),
            "123456789012"
        );
        assert_eq!(
            Named::parse("function", None, &place())
                .unwrap()
                .name
                .as_str(),
            "function"
        );
    }

    #[test]
    fn what_is_out_of_pattern_is_refused() {
        let long = "x".repeat(65);
        let longer = "x".repeat(10_000);
        let qualifier = format!("f:{}", "q".repeat(129));
        for text in [
            "",
            "a/b",
            "..",
            "a b",
            "a\0b",
            "é",
            "a:b:c:d",
            "%",
            ":",
            "f:",
            ":f",
            "f:$OTHER",
            "f:a b",
            "arn:aws:s3:::bucket",
            "arn:aws:lambda:us-east-1:12:function:f",
            "arn:aws:lambda:us-east-1:000000000000:function:",
            &long,
            &longer,
            &qualifier,
        ] {
            assert!(Named::parse(text, None, &place()).is_err(), "{text:?}");
        }
        assert!(Named::parse("f", Some("a b"), &place()).is_err());
        assert!(Named::parse("f:1", Some("2"), &place()).is_err());
    }

    #[test]
    fn another_place_is_not_here() {
        for text in [
            "arn:aws:lambda:eu-west-1:000000000000:function:f",
            "arn:aws:lambda:us-east-1:123456789012:function:f",
            "123456789012:function:f",
        ] {
            assert!(Named::parse(text, None, &place()).is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_latest_version_can_be_changed() {
        Named::parse("f", Some(LATEST), &place())
            .unwrap()
            .latest(&place())
            .unwrap();
        assert!(
            Named::parse("f:1", None, &place())
                .unwrap()
                .latest(&place())
                .is_err()
        );
    }
}
