//! The form of a statement's id, the same for functions and layers.

use crate::api::http::violations::Violations;

/// Checks the form of a statement's id.
pub(crate) fn check_sid(violations: &mut Violations, sid: &str) {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !(1..=100).contains(&sid.len()) || !sid.bytes().all(fine) {
        violations.add(
            sid,
            "statementId",
            "Member must satisfy regular expression pattern: ([a-zA-Z0-9-_]+)",
        );
    }
}
