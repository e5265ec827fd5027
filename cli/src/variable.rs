//! `NAME=VALUE`: one environment variable of a function. Values are secrets: they are never shown.

use std::fmt;
use std::str::FromStr;

/// What was typed after `--env`. It is checked later than the rest of the command line, by
/// [`UncheckedVariable::check`]: the parser's own complaint would repeat the value.
#[derive(Clone)]
pub(crate) struct UncheckedVariable(String);

impl UncheckedVariable {
    /// The variable, if it is one.
    pub(crate) fn check(&self) -> Result<Variable, VariableError> {
        self.0.parse()
    }
}

impl From<&str> for UncheckedVariable {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for UncheckedVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A variable as Lambda allows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    /// A letter, then letters, digits and `_`; two characters at least.
    pub(crate) name: String,
    /// Anything.
    pub(crate) value: String,
}

/// A text that is no variable. Never carries the value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VariableError {
    /// No `=`.
    #[error("expected NAME=VALUE, found no '='")]
    NoEquals,
    /// The part before `=`.
    #[error("invalid variable name {0:?}: use a letter, then one or more letters, digits or _")]
    Name(String),
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() >= 2
        && bytes.next().is_some_and(|c| c.is_ascii_alphabetic())
        && bytes.all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

impl Variable {
    /// A variable of these two, if the name is one.
    pub(crate) fn new(name: &str, value: &str) -> Result<Self, VariableError> {
        if !is_name(name) {
            return Err(VariableError::Name(name.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl FromStr for Variable {
    type Err = VariableError;

    fn from_str(text: &str) -> Result<Self, VariableError> {
        let (name, value) = text.split_once('=').ok_or(VariableError::NoEquals)?;
        Self::new(name, value)
    }
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_equals_sign_ends_the_name() {
        let variable: Variable = "URL=http://h/?a=b".parse().unwrap();
        assert_eq!(variable.name, "URL");
        assert_eq!(variable.value, "http://h/?a=b");
        assert_eq!("EMPTY=".parse::<Variable>().unwrap().value, "");
    }

    #[test]
    fn a_bad_name_or_none_is_refused() {
        for bad in ["NAME", "=x", "1A=x", "A-B=x", "_A=x", "Ä=x", "A=x"] {
            assert!(bad.parse::<Variable>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn neither_debug_output_nor_an_error_shows_the_value() {
        let variable: Variable = "TOKEN=hunter2".parse().unwrap();
        assert!(!format!("{variable:?}").contains("hunter2"));
        let error = "TO KEN=hunter2".parse::<Variable>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
