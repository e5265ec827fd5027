//! What the statements of all policies have in common.

use crate::api::http::violations::Violations;

/// Refuses what is no statement's id.
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
