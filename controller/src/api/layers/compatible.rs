//! The runtimes and architectures that a layer lists as compatible.

use crate::api::http::error::ApiError;
use crate::api::http::parameters::Parameters;
use crate::api::http::violations::{Violations, checked, enum_set};
use crate::api::packages::upload::ARCHITECTURES;

/// Maximum number of compatible runtimes of a layer.
const MAX_RUNTIMES: usize = 15;

/// All of Lambda's runtimes: a layer may list those too that Hearth does not have.
const RUNTIMES: [&str; 52] = [
    "nodejs",
    "nodejs4.3",
    "nodejs6.10",
    "nodejs8.10",
    "nodejs10.x",
    "nodejs12.x",
    "nodejs14.x",
    "nodejs16.x",
    "nodejs18.x",
    "nodejs20.x",
    "nodejs22.x",
    "nodejs24.x",
    "nodejs26.x",
    "nodejs4.3-edge",
    "java8",
    "java8.al2",
    "java8.al2023",
    "java11",
    "java11.al2023",
    "java17",
    "java17.al2023",
    "java21",
    "java25",
    "python2.7",
    "python3.6",
    "python3.7",
    "python3.8",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "python3.15",
    "dotnetcore1.0",
    "dotnetcore2.0",
    "dotnetcore2.1",
    "dotnetcore3.1",
    "dotnet6",
    "dotnet8",
    "dotnet10",
    "go1.x",
    "ruby2.5",
    "ruby2.7",
    "ruby3.2",
    "ruby3.3",
    "ruby3.4",
    "ruby4.0",
    "provided",
    "provided.al2",
    "provided.al2023",
    "custom",
];

/// Checks the lists of a new layer version.
pub(crate) fn check(
    violations: &mut Violations,
    runtimes: Option<&[String]>,
    architectures: Option<&[String]>,
) {
    let runtimes = runtimes.unwrap_or_default();
    let field = "compatibleRuntimes";
    violations.length(runtimes, 0..=MAX_RUNTIMES, field);
    violations.each_of(runtimes, &RUNTIMES, field, &enum_set(&RUNTIMES));
    violations.each_of(
        architectures.unwrap_or_default(),
        &ARCHITECTURES,
        "compatibleArchitectures",
        &format!(
            "Member must satisfy constraint: [{}]",
            enum_set(&ARCHITECTURES)
        ),
    );
}

/// Checks a list operation's filters.
pub(crate) fn check_wanted(parameters: &Parameters) -> Result<(), ApiError> {
    let wanted = |name: &str| parameters.get(name).filter(|text| !text.is_empty());
    checked(|violations| {
        if let Some(runtime) = wanted("CompatibleRuntime") {
            violations.one_of(runtime, &RUNTIMES, "compatibleRuntime");
        }
        if let Some(architecture) = wanted("CompatibleArchitecture") {
            violations.one_of(architecture, &ARCHITECTURES, "compatibleArchitecture");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_lists_runtimes_that_lambda_knows_and_one_error_names_all_others() {
        let strings = |items: &[&str]| {
            items
                .iter()
                .map(|&item| item.into())
                .collect::<Vec<String>>()
        };
        let check = |runtimes: &[&str], architectures: &[&str]| {
            let (runtimes, architectures) = (strings(runtimes), strings(architectures));
            checked(|violations| super::check(violations, Some(&runtimes), Some(&architectures)))
        };
        checked(|violations| super::check(violations, None, None)).unwrap();
        check(&[], &[]).unwrap();
        check(&["java21", "provided.al2023"], &["arm64", "x86_64"]).unwrap();
        let message = format!(
            "{:?}",
            check(&["python3.11", "cobol"], &["z80", "arm64"]).unwrap_err()
        );
        for words in [
            "2 validation errors detected: Value '[python3.11, cobol]' at 'compatibleRuntimes' \
             failed to satisfy constraint: Member must satisfy enum value set: [nodejs, ",
            "]; Value '[z80, arm64]' at 'compatibleArchitectures' failed to satisfy constraint: \
             Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64]]",
        ] {
            assert!(message.contains(words), "{message}");
        }
        assert!(check(&["java21"; 16], &[]).is_err());
    }

    #[test]
    fn filters_are_checked_like_the_lists_of_a_layer() {
        check_wanted(&Parameters::of(&[])).unwrap();
        let fine = [
            ("CompatibleRuntime", "go1.x"),
            ("CompatibleArchitecture", "arm64"),
        ];
        check_wanted(&Parameters::of(&fine)).unwrap();
        for (name, field) in [
            ("CompatibleRuntime", "'compatibleRuntime'"),
            ("CompatibleArchitecture", "'compatibleArchitecture'"),
        ] {
            let refused = check_wanted(&Parameters::of(&[(name, "no")])).unwrap_err();
            assert!(format!("{refused:?}").contains(field), "{refused:?}");
        }
    }
}
