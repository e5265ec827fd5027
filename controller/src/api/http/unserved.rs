//! Members and headers of the API's model that Hearth does not serve.
//!
//! A request that asks for one of them is refused by the member's name: a client that is told nothing
//! takes it as done. A value that asks for nothing (null, false, empty) is accepted. Members that the
//! model does not have are skipped, as on Lambda.

use axum::http::HeaderMap;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::ApiError;

/// Whether a member of any type asks for something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Asked(bool);

impl Asked {
    pub(crate) fn asks(self) -> bool {
        self.0
    }
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Value::deserialize(from).map(|value| Self(asks(&value)))
    }
}

fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => members.values().any(asks),
    }
}

/// Refuses the first member that asks for something.
pub(crate) fn refuse(members: &[(&str, Asked)]) -> Result<(), ApiError> {
    match members.iter().find(|(_, asked)| asked.asks()) {
        Some((member, _)) => Err(unserved(member)),
        None => Ok(()),
    }
}

/// Refuses a header that is not empty.
pub(crate) fn refuse_header(headers: &HeaderMap, name: &'static str) -> Result<(), ApiError> {
    match headers.get_all(name).iter().any(|value| !value.is_empty()) {
        true => Err(unserved(name)),
        false => Ok(()),
    }
}

/// The error about a member or header.
pub(crate) fn unserved(name: &str) -> ApiError {
    ApiError::invalid(format!("{name} is not supported yet"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_values_that_ask_for_nothing_are_accepted() {
        let asked = |value: Value| serde_json::from_value::<Asked>(value).unwrap();
        for nothing in [
            json!(null),
            json!(false),
            json!(""),
            json!([]),
            json!({}),
            json!({"SubnetIds": [], "Ipv6AllowedForDualStack": false}),
        ] {
            assert_eq!(asked(nothing.clone()), Asked(false), "{nothing}");
        }
        for something in [
            json!(true),
            json!(0),
            json!("PER_TENANT"),
            json!([""]),
            json!({"SecurityGroupIds": ["sg-1"]}),
            json!({"A": {"B": {"C": 1}}}),
        ] {
            assert_eq!(asked(something.clone()), Asked(true), "{something}");
            let refused = refuse(&[("A", Asked(false)), ("TenancyConfig", asked(something))]);
            let refused = format!("{:?}", refused.unwrap_err());
            assert!(refused.contains("TenancyConfig is not supported yet"));
        }
    }

    #[test]
    fn a_header_is_refused_unless_it_is_empty() {
        let mut headers = HeaderMap::new();
        refuse_header(&headers, "X-Amz-Tenant-Id").unwrap();
        headers.insert("x-amz-tenant-id", "".parse().unwrap());
        refuse_header(&headers, "X-Amz-Tenant-Id").unwrap();
        headers.append("x-amz-tenant-id", "blue".parse().unwrap());
        assert!(refuse_header(&headers, "X-Amz-Tenant-Id").is_err());
    }
}
