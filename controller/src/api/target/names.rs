//! The ways of naming a function: `f`, `f:qualifier`, `account:function:f`, a full ARN.

use crate::api::http::error::ApiError;
use crate::api::http::violations::Violations;
use crate::function::{ArnScope, FunctionName, LATEST, is_account, is_region};

/// The parameter's name in Lambda's messages.
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

    /// The constraint in Lambda's message.
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

/// The parts of a text that names a function.
#[derive(Debug)]
struct Parts<'a> {
    region: Option<&'a str>,
    account: Option<&'a str>,
    name: &'a str,
    qualifier: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Splits the text as the pattern matches it. An optional part at the front is taken for that part
    /// only if another follows it, so `function` alone is a function's name.
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

/// A function's name and qualifier as a request gives them. There may be no such function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: FunctionName,
    pub(crate) qualifier: Option<String>,
}

impl Named {
    /// Parses a path segment, already percent-decoded, and the query's `Qualifier`. One error lists all
    /// violations of both, as Lambda does it.
    pub(crate) fn parse(
        text: &str,
        qualifier: Option<&str>,
        form: NameForm,
        arn_scope: &ArnScope,
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
        let parts = parts.expect("a text without the form is a violation");
        let qualifier = match (parts.qualifier, qualifier) {
            (Some(own), Some(asked)) if own != asked => {
                return Err(ApiError::invalid(
                    "The derived qualifier from the function name does not match the specified \
                     qualifier.",
                ));
            }
            (own, asked) => own.or(asked).map(str::to_owned),
        };
        if let Some(region) = parts.region.filter(|region| *region != arn_scope.region) {
            return Err(ApiError::not_found(format!(
                "Functions from '{region}' are not reachable in this region ('{}')",
                arn_scope.region
            )));
        }
        if parts
            .account
            .is_some_and(|account| account != arn_scope.account)
        {
            return Err(ApiError::other_account());
        }
        // The pattern allows names that no function can have.
        let name = FunctionName::parse(parts.name).map_err(|_| {
            let suffix = qualifier.as_deref().map(|text| format!(":{text}"));
            let meant = format!("{}{}", parts.name, suffix.unwrap_or_default());
            ApiError::function_not_found(&arn_scope.arn_of(&meant))
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

    /// Checks the form of a new function's name.
    pub(crate) fn check_new(violations: &mut Violations, text: &str) {
        Self::check(violations, text, NameForm::Function);
    }

    /// Whether a text is the full ARN of a function.
    pub(crate) fn is_whole_arn(text: &str) -> bool {
        let parts = Parts::of(text, NameForm::Function);
        parts.is_some_and(|parts| parts.region.is_some() && parts.account.is_some())
            && text.starts_with("arn:")
            && text.split(':').nth(5) == Some("function")
    }

    /// Parses the name of a new function.
    pub(crate) fn parse_new(text: &str, arn_scope: &ArnScope) -> Result<FunctionName, ApiError> {
        let parts = Parts::of(text, NameForm::Function);
        if let Some(parts) = &parts
            && text.len() <= NameForm::Function.longest()
            && FunctionName::parse(parts.name).is_err()
        {
            let constraint = "Member must have length less than or equal to 64";
            return Err(ApiError::late_constraint(parts.name, FIELD, constraint));
        }
        let named = Self::parse(text, None, NameForm::Function, arn_scope)?;
        if named.qualifier.is_some() {
            return Err(ApiError::invalid(
                "The function name of a new function has no qualifier",
            ));
        }
        Ok(named.name)
    }

    /// The ARN, with the qualifier if the request gives one.
    pub(crate) fn arn(&self, arn_scope: &ArnScope) -> String {
        arn_scope.function_arn(&self.name, self.qualifier.as_deref())
    }

    /// Refuses every qualifier except `$LATEST`, because nothing else can be changed.
    pub(crate) fn latest(&self, arn_scope: &ArnScope) -> Result<(), ApiError> {
        match self.qualifier.as_deref() {
            None | Some(LATEST) => Ok(()),
            Some(_) => Err(ApiError::function_not_found(&self.arn(arn_scope))),
        }
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-' || b == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arn_scope() -> ArnScope {
        ArnScope {
            region: "us-east-1".into(),
            account: "000000000000".into(),
        }
    }

    fn parse(text: &str, qualifier: Option<&str>) -> Result<Named, ApiError> {
        Named::parse(text, qualifier, NameForm::Function, &arn_scope())
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
    fn a_name_that_does_not_match_the_pattern_is_refused() {
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
            let message = refused(parse(text, None));
            assert!(
                message.contains("\"ValidationException\""),
                "{text:?}: {message}"
            );
        }
    }

    #[test]
    fn one_error_lists_all_violations_of_a_name_and_a_qualifier() {
        let (name, qualifier) = ("!".repeat(171), "?".repeat(129));
        let message = refused(Named::parse(
            &name,
            Some(&qualifier),
            NameForm::Namespaced,
            &arn_scope(),
        ));
        let mut rest = message.as_str();
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
            rest = &rest[at.unwrap_or_else(|| panic!("{next:?} in {message}")) + next.len()..];
        }
    }

    #[test]
    fn a_name_that_has_the_form_and_that_no_function_can_have_is_not_found() {
        let long = "a".repeat(65);
        let message = refused(parse(&long, None));
        assert!(
            message.contains(&format!(
                "Function not found: arn:aws:lambda:us-east-1:000000000000:function:{long}\""
            )),
            "{message}"
        );
        let message = refused(Named::parse(
            "a.b",
            Some("1"),
            NameForm::Namespaced,
            &arn_scope(),
        ));
        assert!(
            message.contains("Function not found: ") && message.contains(":function:a.b:1"),
            "{message}"
        );
        let message = refused(parse("a.b", None));
        assert!(message.contains("([a-zA-Z0-9-_]+)(:"), "{message}");
    }

    #[test]
    fn a_new_functions_name_is_short_and_has_no_qualifier() {
        let new = |text: &str| Named::parse_new(text, &arn_scope());
        assert_eq!(new("000000000000:function:f").unwrap().as_str(), "f");
        let message = format!("{:?}", new(&"a".repeat(65)).unwrap_err());
        assert!(
            message.contains("\"InvalidParameterValueException\""),
            "{message}"
        );
        assert!(message.contains("'functionName' failed to satisfy constraint: Member must have length less than or equal to 64"), "{message}");
        let message = format!("{:?}", new(&"a".repeat(141)).unwrap_err());
        assert!(
            message.contains("\"ValidationException\"") && message.contains("equal to 140"),
            "{message}"
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
        let message = refused(parse("f:1", Some("2")));
        assert!(
            message.contains("does not match the specified qualifier"),
            "{message}"
        );
    }

    #[test]
    fn another_region_and_another_account_are_not_here() {
        let message = refused(parse(
            "arn:aws:lambda:eu-west-1:000000000000:function:f",
            None,
        ));
        let words = "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')";
        assert!(message.contains(words), "{message}");
        for text in [
            "arn:aws:lambda:us-east-1:123456789012:function:f",
            "123456789012:function:f",
        ] {
            let message = refused(parse(text, None));
            assert!(
                message.contains("\"AccessDeniedException\""),
                "{text}: {message}"
            );
        }
    }

    #[test]
    fn only_the_latest_version_can_be_changed() {
        parse("f", Some(LATEST))
            .unwrap()
            .latest(&arn_scope())
            .unwrap();
        assert!(parse("f:1", None).unwrap().latest(&arn_scope()).is_err());
    }
}
