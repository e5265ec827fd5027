//! The ways of naming a function: `f`, `f:qualifier`, `account:function:f`, a full ARN.

use crate::api::http::error::ApiError;
use crate::api::http::violations::Violations;
use crate::function::{FunctionName, LATEST, Place, is_account, is_region};

/// What Lambda calls it.
const FIELD: &str = "functionName";
/// Longest qualifier.
const MAX_QUALIFIER: usize = 128;
const QUALIFIER_PATTERN: &str =
    "Member must satisfy regular expression pattern: (|[a-zA-Z0-9$_-]+)";

/// How an operation takes a function's name: Lambda's model has two types for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameForm {
    /// `FunctionName`.
    Function,
    /// `NamespacedFunctionName`: longer, and there may be dots in it.
    Namespaced,
}

impl NameForm {
    fn longest(self) -> usize {
        match self {
            Self::Function => 140,
            Self::Namespaced => 170,
        }
    }

    fn is_name(self, text: &str) -> bool {
        let dots = self == Self::Namespaced;
        let fine = |b: u8| is_word(b) || (dots && b == b'.');
        !text.is_empty() && text.bytes().all(fine)
    }

    /// What Lambda says the form is.
    fn pattern(self) -> String {
        let dot = match self {
            Self::Function => "",
            Self::Namespaced => "\\.",
        };
        format!(
            "Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?\
             ([a-z]{{2}}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{{1}}:)?(\\d{{12}}:)?(function:)?\
             ([a-zA-Z0-9-_{dot}]+)(:(\\$LATEST|[a-zA-Z0-9-_]+))?"
        )
    }
}

/// What a text that names a function consists of.
#[derive(Debug)]
struct Parts<'a> {
    region: Option<&'a str>,
    account: Option<&'a str>,
    name: &'a str,
    qualifier: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Takes it apart as the pattern does: whatever may be in front is, if something follows it.
    fn of(text: &'a str, form: NameForm) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let mut rest = parts.as_slice();
        if let ["arn", partition, "lambda", after @ ..] = rest {
            let fine = |b: u8| b.is_ascii_alphabetic() || b == b'-';
            let known = partition.is_empty() || partition.starts_with("aws");
            if !known || !partition.bytes().all(fine) {
                return None;
            }
            rest = after;
        }
        let mut take = |is_it: &dyn Fn(&str) -> bool| match rest {
            [first, after @ ..] if !after.is_empty() && is_it(first) => {
                rest = after;
                Some(*first)
            }
            _ => None,
        };
        let region = take(&is_region);
        let account = take(&is_account);
        take(&|part| part == "function");
        let (name, qualifier) = match rest {
            [name] => (*name, None),
            [name, qualifier] => (*name, Some(*qualifier)),
            _ => return None,
        };
        let known = |qualifier: &str| {
            qualifier == LATEST || (!qualifier.is_empty() && qualifier.bytes().all(is_word))
        };
        (form.is_name(name) && qualifier.is_none_or(known)).then_some(Self {
            region,
            account,
            name,
            qualifier,
        })
    }
}

/// A function that somebody speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: FunctionName,
    pub(crate) qualifier: Option<String>,
}

impl Named {
    /// Parses a path segment, already percent-decoded, and the query's `Qualifier`. Everything that
    /// is wrong with the form of both is told at once, as Lambda does it.
    pub(crate) fn parse(
        text: &str,
        qualifier: Option<&str>,
        form: NameForm,
        place: &Place,
    ) -> Result<Self, ApiError> {
        let mut violations = Violations::default();
        if let Some(asked) = qualifier {
            violations.at_most(asked, MAX_QUALIFIER, "qualifier");
            if !asked.bytes().all(|b| is_word(b) || b == b'$') {
                violations.add(asked, "qualifier", QUALIFIER_PATTERN);
            }
        }
        let parts = Self::check(&mut violations, text, form);
        violations.end()?;
        let parts = parts.expect("what has not the form was told");
        let qualifier = match (parts.qualifier, qualifier) {
            (Some(own), Some(asked)) if own != asked => {
                return Err(ApiError::invalid(
                    "The derived qualifier from the function name does not match the specified \
                     qualifier.",
                ));
            }
            (own, asked) => own.or(asked).map(str::to_owned),
        };
        if let Some(region) = parts.region.filter(|region| *region != place.region) {
            return Err(ApiError::not_found(format!(
                "Functions from '{region}' are not reachable in this region ('{}')",
                place.region
            )));
        }
        if parts
            .account
            .is_some_and(|account| account != place.account)
        {
            return Err(ApiError::other_account());
        }
        // The pattern allows names that no function can have.
        let name = FunctionName::parse(parts.name).map_err(|_| {
            let suffix = qualifier.as_deref().map(|text| format!(":{text}"));
            let meant = format!("{}{}", parts.name, suffix.unwrap_or_default());
            ApiError::function_not_found(&place.arn_of(&meant))
        })?;
        Ok(Self { name, qualifier })
    }

    fn check<'a>(violations: &mut Violations, text: &'a str, form: NameForm) -> Option<Parts<'a>> {
        violations.at_most(text, form.longest(), FIELD);
        let parts = Parts::of(text, form);
        if parts.is_none() {
            violations.add(text, FIELD, &form.pattern());
        }
        parts
    }

    /// What is wrong with the form of a name that a function is to have.
    pub(crate) fn check_new(violations: &mut Violations, text: &str) {
        Self::check(violations, text, NameForm::Function);
    }

    /// Whether a text is the ARN of a function, with everything that belongs to one.
    pub(crate) fn is_whole_arn(text: &str) -> bool {
        let parts = Parts::of(text, NameForm::Function);
        parts.is_some_and(|parts| parts.region.is_some() && parts.account.is_some())
            && text.starts_with("arn:")
            && text.split(':').nth(5) == Some("function")
    }

    /// Parses the name of a function that is to be made.
    pub(crate) fn parse_new(text: &str, place: &Place) -> Result<FunctionName, ApiError> {
        let parts = Parts::of(text, NameForm::Function);
        if let Some(parts) = &parts
            && text.len() <= NameForm::Function.longest()
            && FunctionName::parse(parts.name).is_err()
        {
            let constraint = "Member must have length less than or equal to 64";
            return Err(ApiError::late_constraint(parts.name, FIELD, constraint));
        }
        let named = Self::parse(text, None, NameForm::Function, place)?;
        if named.qualifier.is_some() {
            return Err(ApiError::invalid(
                "The function name of a new function has no qualifier",
            ));
        }
        Ok(named.name)
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

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-' || b == b'_'
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

    fn parse(text: &str, qualifier: Option<&str>) -> Result<Named, ApiError> {
        Named::parse(text, qualifier, NameForm::Function, &place())
    }

    fn refused(result: Result<Named, ApiError>) -> String {
        format!("{:?}", result.unwrap_err())
    }

    #[test]
    fn every_form_names_the_function() {
        for (text, qualifier) in [
            ("f", None),
            ("f:$LATEST", Some(LATEST)),
            ("f:live", Some("live")),
            ("f:-1", Some("-1")),
            ("function:f", None),
            ("000000000000:f", None),
            ("000000000000:function:f", None),
            ("000000000000:function:f:7", Some("7")),
            ("us-east-1:000000000000:function:f", None),
            ("arn:aws:lambda:us-east-1:000000000000:function:f", None),
            (
                "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST",
                Some(LATEST),
            ),
        ] {
            let named = parse(text, None).unwrap();
            assert_eq!(
                (named.name.as_str(), named.qualifier.as_deref()),
                ("f", qualifier),
                "{text}"
            );
        }
        for (text, name) in [
            ("123456789012", "123456789012"),
            ("function", "function"),
            ("arn:aws:lambda:us-east-1:000000000000:function", "function"),
        ] {
            assert_eq!(parse(text, None).unwrap().name.as_str(), name);
        }
    }

    #[test]
    fn what_is_out_of_pattern_is_refused() {
        let longer = "x".repeat(10_000);
        let qualifier = format!("f:{}", "q".repeat(140));
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
            "arn:aws:lambda:us-east-1::function:f",
            "arn:aws:lambda::000000000000:function:f",
            "arn:aws:lambda:us-east-1:000000000000:function:",
            "arn:aws:lambda:us-east-1:000000000000:function:f:$LATES",
            &longer,
            &qualifier,
        ] {
            let told = refused(parse(text, None));
            assert!(told.contains("\"ValidationException\""), "{text:?}: {told}");
        }
    }

    #[test]
    fn all_that_is_wrong_with_a_name_and_a_qualifier_is_told_at_once() {
        let (name, qualifier) = ("!".repeat(171), "?".repeat(129));
        let told = refused(Named::parse(
            &name,
            Some(&qualifier),
            NameForm::Namespaced,
            &place(),
        ));
        let mut rest = told.as_str();
        for next in [
            "4 validation errors detected: ",
            "at 'qualifier' failed to satisfy constraint: Member must have length less than or \
             equal to 128; ",
            "at 'qualifier' failed to satisfy constraint: Member must satisfy regular expression \
             pattern: (|[a-zA-Z0-9$_-]+); ",
            "at 'functionName' failed to satisfy constraint: Member must have length less than or \
             equal to 170; ",
            "(function:)?([a-zA-Z0-9-_\\\\.]+)(:",
        ] {
            let at = rest.find(next);
            rest = &rest[at.unwrap_or_else(|| panic!("{next:?} in {told}")) + next.len()..];
        }
    }

    #[test]
    fn a_name_that_has_the_form_and_that_no_function_can_have_is_not_found() {
        let long = "a".repeat(65);
        let told = refused(parse(&long, None));
        assert!(
            told.contains(&format!(
                "Function not found: arn:aws:lambda:us-east-1:000000000000:function:{long}\""
            )),
            "{told}"
        );
        let told = refused(Named::parse(
            "a.b",
            Some("1"),
            NameForm::Namespaced,
            &place(),
        ));
        assert!(
            told.contains("Function not found: ") && told.contains(":function:a.b:1"),
            "{told}"
        );
        let told = refused(parse("a.b", None));
        assert!(told.contains("([a-zA-Z0-9-_]+)(:"), "{told}");
    }

    #[test]
    fn a_new_functions_name_is_short_and_has_no_qualifier() {
        let new = |text: &str| Named::parse_new(text, &place());
        assert_eq!(new("000000000000:function:f").unwrap().as_str(), "f");
        let told = format!("{:?}", new(&"a".repeat(65)).unwrap_err());
        assert!(
            told.contains("\"InvalidParameterValueException\""),
            "{told}"
        );
        assert!(told.contains("'functionName' failed to satisfy constraint: Member must have length less than or equal to 64"), "{told}");
        let told = format!("{:?}", new(&"a".repeat(141)).unwrap_err());
        assert!(
            told.contains("\"ValidationException\"") && told.contains("equal to 140"),
            "{told}"
        );
        assert!(new("f:1").is_err());
    }

    #[test]
    fn a_qualifier_is_a_version_an_alias_or_what_could_be_one() {
        for fine in ["1", "live", "$LATEST", "$latest", "with-$-in_it"] {
            let named = parse("f", Some(fine)).unwrap();
            assert_eq!(named.qualifier.as_deref(), Some(fine));
        }
        assert!(parse("f", Some("a b")).is_err());
        let told = refused(parse("f:1", Some("2")));
        assert!(
            told.contains("does not match the specified qualifier"),
            "{told}"
        );
    }

    #[test]
    fn another_region_and_another_account_are_not_here() {
        let told = refused(parse(
            "arn:aws:lambda:eu-west-1:000000000000:function:f",
            None,
        ));
        let words = "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')";
        assert!(told.contains(words), "{told}");
        for text in [
            "arn:aws:lambda:us-east-1:123456789012:function:f",
            "123456789012:function:f",
        ] {
            let told = refused(parse(text, None));
            assert!(told.contains("\"AccessDeniedException\""), "{text}: {told}");
        }
    }

    #[test]
    fn only_the_latest_version_can_be_changed() {
        parse("f", Some(LATEST)).unwrap().latest(&place()).unwrap();
        assert!(parse("f:1", None).unwrap().latest(&place()).is_err());
    }
}
