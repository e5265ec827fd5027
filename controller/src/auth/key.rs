//! One access key: its id, its secret and its permissions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name and longest pattern, in bytes: as long as a function's name may be.
const MAX_NAME: usize = 64;

/// Why a key can't be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The name is not valid.
    #[error("key name {0:?}: expected 1 to 64 of a-z A-Z 0-9 + = , . @ _ -")]
    Name(String),
    /// A pattern of function names is not valid.
    #[error(
        "pattern {0:?}: expected 1 to 64 of a-z A-Z 0-9 - _, * for any text, ? for one character"
    )]
    Pattern(String),
    /// The key would permit nothing.
    #[error("a key must permit something: --admin, or --invoke PATTERN")]
    NoPermission,
}

/// A secret access key. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The permissions of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permissions {
    /// Everything.
    pub admin: bool,
    /// Invoke functions whose name fits one of these patterns: `*` is any text, `?` one character.
    pub invoke: Vec<String>,
}

impl Permissions {
    #[cfg(test)]
    pub(crate) fn admin() -> Self {
        Self {
            admin: true,
            invoke: Vec::new(),
        }
    }

    /// Refuses patterns that can't match any function's name, and permissions that permit nothing.
    pub fn check(&self) -> Result<(), KeyError> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_*?".contains(&b);
        for pattern in &self.invoke {
            if pattern.is_empty() || pattern.len() > MAX_NAME || !pattern.bytes().all(fine) {
                return Err(KeyError::Pattern(pattern.clone()));
            }
        }
        if !self.admin && self.invoke.is_empty() {
            return Err(KeyError::NoPermission);
        }
        Ok(())
    }

    /// Whether the function of this name may be invoked.
    pub(crate) fn may_invoke(&self, function: &str) -> bool {
        self.admin
            || self
                .invoke
                .iter()
                .any(|pattern| fits(pattern.as_bytes(), function.as_bytes()))
    }
}

/// An access key as the data directory holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// Public: every signed request contains it.
    pub id: String,
    /// A name for people.
    pub name: String,
    /// When it was made: RFC 3339, UTC.
    pub created: String,
    /// Its permissions.
    pub permissions: Permissions,
    pub(super) secret: Secret,
}

/// Accepts 1 to 64 of the characters that IAM allows in a user's name.
pub(super) fn check_name(name: &str) -> Result<(), KeyError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(fine) {
        return Err(KeyError::Name(name.into()));
    }
    Ok(())
}

/// Whether `pattern` matches the whole `text`. After a mismatch only the last `*` takes one more
/// character, so the number of steps is at most the product of both lengths.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_all_of_a_name_or_nothing() {
        for (pattern, name, expected) in [
            ("f", "f", true),
            ("f", "ff", false),
            ("f", "F", false),
            ("*", "anything", true),
            ("img-*", "img-", true),
            ("img-*", "img-a-b", true),
            ("img-*", "my-img-a", false),
            ("*-test", "a-test", true),
            ("*-test", "a-test-b", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("f?", "f1", true),
            ("f?", "f", false),
            ("f?", "f12", false),
            ("**", "x", true),
            ("?*", "x", true),
        ] {
            assert_eq!(
                fits(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn a_pattern_with_many_stars_is_not_slow() {
        let pattern = "*a".repeat(32);
        assert!(!fits(pattern.as_bytes(), "b".repeat(64).as_bytes()));
        assert!(!fits(pattern.as_bytes(), &[b'a'; 31]));
    }

    #[test]
    fn a_key_permits_something_that_can_exist() {
        let permits = |admin, invoke: &[&str]| Permissions {
            admin,
            invoke: invoke.iter().map(ToString::to_string).collect(),
        };
        permits(true, &[]).check().unwrap();
        permits(false, &["*"]).check().unwrap();
        assert!(permits(false, &[]).check().is_err());
        for bad in ["", "a b", "a:b", "a/b", "arn:*", &"x".repeat(65)] {
            assert!(permits(true, &[bad]).check().is_err(), "{bad:?}");
        }
        assert!(!permits(false, &["f"]).may_invoke("g"));
        assert!(permits(true, &[]).may_invoke("g"));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let key = AccessKey {
            id: "id".into(),
            name: "n".into(),
            created: String::new(),
            permissions: Permissions::default(),
            secret: Secret::new("hush".into()),
        };
        assert!(!format!("{key:?}").contains("hush"));
    }
}
