//! Checks the form of an ARN's parts: partition, region, account.

/// Whether `name` has the form that ARNs allow: `us-east-1`, `us-gov-west-1`, `us-iso-east-1`.
pub(crate) fn is_region(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let (country, middle, digit) = match parts.as_slice() {
        [country, area, digit] => (country, vec![area], digit),
        [country, kind, area, digit] if *kind == "gov" || kind.starts_with("iso") => {
            (country, vec![kind, area], digit)
        }
        _ => return false,
    };
    let lower = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase());
    country.len() == 2
        && lower(country)
        && middle.into_iter().all(|part| lower(part))
        && digit.len() == 1
        && digit.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a text has the form of an account's number.
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a text has the form of a partition's name.
pub(crate) fn is_partition(text: &str) -> bool {
    let named = |b: u8| b.is_ascii_alphabetic() || b == b'-';
    text.starts_with("aws") && text.bytes().all(named)
}

#[cfg(test)]
mod tests {
    use super::is_region;

    #[test]
    fn regions_have_the_form_that_arns_allow() {
        for good in [
            "us-east-1",
            "us-gov-west-1",
            "us-isob-east-1",
            "eu-central-2",
        ] {
            assert!(is_region(good), "{good}");
        }
        for bad in [
            "",
            "us",
            "us-east",
            "us-east-10",
            "US-east-1",
            "us-x-y-1",
            "us--1",
            "a:b-c-1",
        ] {
            assert!(!is_region(bad), "{bad}");
        }
    }
}
