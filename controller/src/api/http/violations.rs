//! Violations of the form of a request. One error lists all of them, in Lambda's clauses.
//!
//! The rules are those of the API's model, which Lambda checks before it looks anything up. A rule that
//! Lambda checks later has an error of its own.

use std::ops::RangeInclusive;

use super::error::ApiError;

/// Longest part of a value that a message repeats, in characters.
const MAX_SHOWN: usize = 300;

/// Runs the checks of a request, and returns their value if there is no violation.
pub(crate) fn checked<T>(checks: impl FnOnce(&mut Violations) -> T) -> Result<T, ApiError> {
    let mut violations = Violations::default();
    let value = checks(&mut violations);
    violations.end()?;
    Ok(value)
}

/// The same for checks that return `None` only if they have added a violation.
pub(crate) fn found<T>(checks: impl FnOnce(&mut Violations) -> Option<T>) -> Result<T, ApiError> {
    checked(checks).map(|value| value.expect("a missing value is a violation"))
}

/// The clauses of the message, in their order.
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<String>);

impl Violations {
    /// Refuses the request if there is any violation.
    pub(crate) fn end(&self) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(ApiError::validation(self.message()))
    }

    /// Lambda's message with all clauses.
    pub(crate) fn message(&self) -> String {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        format!(
            "{} validation error{plural} detected: {}",
            self.0.len(),
            self.0.join("; ")
        )
    }

    pub(crate) fn add(&mut self, value: &str, field: &str, constraint: &str) {
        let shown: String = value.chars().take(MAX_SHOWN).collect();
        self.clause(&format!(" '{shown}'"), field, constraint);
    }

    /// The same about a secret value, which the message does not repeat.
    pub(crate) fn add_secret(&mut self, field: &str, constraint: &str) {
        self.clause("", field, constraint);
    }

    fn clause(&mut self, value: &str, field: &str, constraint: &str) {
        self.0.push(format!(
            "Value{value} at '{field}' failed to satisfy constraint: {constraint}"
        ));
    }

    /// Requires a value.
    pub(crate) fn given<T>(&mut self, value: Option<T>, field: &str) -> Option<T> {
        if value.is_none() {
            self.clause(" null", field, "Member must not be null");
        }
        value
    }

    /// Requires at most `limit` characters.
    pub(crate) fn at_most(&mut self, text: &str, limit: usize, field: &str) {
        if text.chars().count() > limit {
            self.add(text, field, &longest(limit));
        }
    }

    /// Requires a number within the range; returns `None` for any other.
    pub(crate) fn in_range(
        &mut self,
        number: i64,
        range: RangeInclusive<u32>,
        field: &str,
    ) -> Option<u32> {
        let (least, most) = range.into_inner();
        let constraint = match u32::try_from(number) {
            Ok(fine) if (least..=most).contains(&fine) => return Some(fine),
            _ if number < i64::from(least) => {
                format!("Member must have value greater than or equal to {least}")
            }
            _ => format!("Member must have value less than or equal to {most}"),
        };
        self.add(&number.to_string(), field, &constraint);
        None
    }

    pub(crate) fn one_of(&mut self, value: &str, known: &[&str], field: &str) {
        if !known.contains(&value) {
            self.add(value, field, &enum_set(known));
        }
    }

    /// Requires a list of known items; `constraint` is Lambda's text for this list.
    pub(crate) fn each_of(
        &mut self,
        items: &[String],
        known: &[&str],
        field: &str,
        constraint: &str,
    ) {
        if !items.iter().all(|item| known.contains(&item.as_str())) {
            self.add(&list(items), field, constraint);
        }
    }

    /// Requires a number of items within the range.
    pub(crate) fn length(&mut self, items: &[String], range: RangeInclusive<usize>, field: &str) {
        if items.len() < *range.start() {
            let constraint = format!(
                "Member must have length greater than or equal to {}",
                range.start()
            );
            self.add(&list(items), field, &constraint);
        }
        if items.len() > *range.end() {
            self.add(&list(items), field, &longest(*range.end()));
        }
    }
}

impl ApiError {
    /// Lambda's message about one value.
    pub(crate) fn constraint(value: &str, field: &str, constraint: &str) -> Self {
        let mut violations = Violations::default();
        violations.add(value, field, constraint);
        Self::validation(violations.message())
    }

    /// The same for a rule that Lambda checks after the model: another type of error.
    pub(crate) fn late_constraint(value: &str, field: &str, constraint: &str) -> Self {
        let mut violations = Violations::default();
        violations.add(value, field, constraint);
        Self::invalid(violations.message())
    }
}

pub(crate) fn enum_set(known: &[&str]) -> String {
    format!("Member must satisfy enum value set: [{}]", known.join(", "))
}

/// A list as Lambda's messages show it.
pub(crate) fn list(items: &[String]) -> String {
    format!("[{}]", items.join(", "))
}

fn longest(limit: usize) -> String {
    format!("Member must have length less than or equal to {limit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(checks: impl FnOnce(&mut Violations)) -> String {
        let mut violations = Violations::default();
        checks(&mut violations);
        violations.message()
    }

    #[test]
    fn one_error_counts_and_lists_all_violations_of_a_request() {
        checked(|violations| {
            violations.at_most("abc", 3, "f");
            violations.one_of("a", &["a"], "f");
        })
        .unwrap();
        let refused = checked(|violations| {
            violations.given(None::<u8>, "role");
            violations.add_secret("environment.variables", "c");
            violations.one_of("x", &["a", "b"], "mode");
            violations.in_range(0, 1..=900, "timeout")
        })
        .unwrap_err();
        let refused = format!("{refused:?}");
        let words = "4 validation errors detected: Value null at 'role' failed to satisfy \
                     constraint: Member must not be null; Value at 'environment.variables' failed \
                     to satisfy constraint: c; Value 'x' at 'mode' failed to satisfy constraint: \
                     Member must satisfy enum value set: [a, b]; Value '0' at 'timeout' failed to \
                     satisfy constraint: Member must have value greater than or equal to 1";
        assert!(refused.contains(words), "{refused}");
        assert!(refused.contains("ValidationException"), "{refused}");
    }

    #[test]
    fn the_message_about_a_number_names_the_bound_that_it_breaks() {
        for (number, expected, words) in [
            (60, Some(60), ""),
            (21_600, Some(21_600), ""),
            (
                59,
                None,
                "'59' at 'f' failed to satisfy constraint: Member must have value greater \
                        than or equal to 60",
            ),
            (21_601, None, "less than or equal to 21600"),
            (
                -1,
                None,
                "'-1' at 'f' failed to satisfy constraint: Member must have value greater",
            ),
            (i64::MAX, None, "less than or equal to 21600"),
        ] {
            let mut violations = Violations::default();
            assert_eq!(violations.in_range(number, 60..=21_600, "f"), expected);
            assert!(violations.message().contains(words), "{violations:?}");
            assert_eq!(violations.end().is_ok(), expected.is_some());
        }
    }

    #[test]
    fn a_list_is_shown_whole_and_a_long_text_in_part() {
        let items = ["a".to_owned(), "b".to_owned()];
        let text = message(|violations| {
            violations.length(&items, 1..=1, "few");
            violations.each_of(&items, &["a"], "known", "c");
        });
        assert_eq!(
            text,
            "2 validation errors detected: Value '[a, b]' at 'few' failed to satisfy constraint: \
             Member must have length less than or equal to 1; Value '[a, b]' at 'known' failed to \
             satisfy constraint: c"
        );
        let none = message(|violations| violations.length(&[], 1..=1, "few"));
        assert!(none.contains("'[]' at 'few'") && none.contains("greater than or equal to 1"));
        let long = message(|violations| violations.at_most(&"é".repeat(999), 256, "f"));
        assert!(long.contains(&format!("'{}'", "é".repeat(300))), "{long}");
    }
}
