//! The configuration fragment, and the check that Kconfig has taken all of it.
//!
//! Kconfig silently drops an option whose dependency is missing, and turns on an option that
//! another one selects. Without this check, a kernel without vsock would be noticed only when its
//! agent does not connect.

use std::collections::BTreeMap;
use std::fmt;

/// An option whose value differs from the fragment's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    option: String,
    wanted: String,
    taken: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} wanted, {} taken",
            self.option, self.wanted, self.taken
        )
    }
}

/// `CONFIG_X=value` lines by option.
#[derive(Debug)]
pub(super) struct Fragment<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Fragment<'a> {
    /// Parses a fragment or a whole `.config`.
    pub(super) fn parse(text: &'a str) -> Self {
        let options = text.lines().filter_map(|line| {
            let (option, value) = line.trim().split_once('=')?;
            option.starts_with("CONFIG_").then_some((option, value))
        });
        Self(options.collect())
    }

    /// The options of this fragment that have another value in the finished `.config`.
    pub(super) fn compare(&self, config: &str) -> Vec<Mismatch> {
        let taken = Fragment::parse(config).0;
        self.0
            .iter()
            .filter_map(|(option, wanted)| {
                // An option that is off, or that this kernel does not have, has no line.
                let value = taken.get(option).copied().unwrap_or("n");
                (value != *wanted).then(|| Mismatch {
                    option: (*option).to_owned(),
                    wanted: (*wanted).to_owned(),
                    taken: value.to_owned(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mismatches(fragment: &str, config: &str) -> Vec<String> {
        Fragment::parse(fragment)
            .compare(config)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_was_taken_is_not_reported() {
        let config = "# CONFIG_B is not set\nCONFIG_A=y\nCONFIG_NR=32\nCONFIG_OTHER=y\n";
        assert!(mismatches("# why\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_NR=32\n", config).is_empty());
    }

    #[test]
    fn a_dropped_a_forced_and_a_changed_option_are_reported() {
        assert_eq!(
            mismatches(
                "CONFIG_GONE=y\nCONFIG_FORCED=n\nCONFIG_NR=32\n",
                "CONFIG_FORCED=y\nCONFIG_NR=64\n"
            ),
            [
                "CONFIG_FORCED: n wanted, y taken",
                "CONFIG_GONE: y wanted, n taken",
                "CONFIG_NR: 32 wanted, 64 taken",
            ]
        );
    }
}
