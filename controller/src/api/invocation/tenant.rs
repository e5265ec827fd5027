//! The header `X-Amz-Tenant-Id`: required for a function with tenant isolation, refused for others.

use axum::http::HeaderMap;

use crate::api::http::error::ApiError;
use crate::function::{MAX_TENANT_ID, TenantId, Version};

const HEADER: &str = "x-amz-tenant-id";

/// Reads the tenant of an invocation. There is one if and only if the version isolates tenants.
pub(super) fn read(headers: &HeaderMap, version: &Version) -> Result<Option<TenantId>, ApiError> {
    let tenant = parse(headers)?;
    match (version.config.tenant_isolation, &tenant) {
        (true, None) => Err(ApiError::invalid(
            "The invoked function is enabled with tenancy configuration. Add a valid tenant ID in \
             your request and try again.",
        )),
        (false, Some(_)) => Err(ApiError::invalid(
            "The invoked function is not enabled with tenancy configuration. Remove the tenant ID \
             from your request and try again.",
        )),
        _ => Ok(tenant),
    }
}

/// An empty header is none.
fn parse(headers: &HeaderMap) -> Result<Option<TenantId>, ApiError> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    // One of the two would be the wrong tenant's.
    if values.next().is_some() {
        return Err(ApiError::invalid("X-Amz-Tenant-Id must be there only once"));
    }
    let text = String::from_utf8_lossy(value.as_bytes());
    if text.is_empty() {
        return Ok(None);
    }
    let constraint = if text.chars().count() > MAX_TENANT_ID {
        format!("Member must have length less than or equal to {MAX_TENANT_ID}")
    } else {
        r"Member must satisfy regular expression pattern: [a-zA-Z0-9\._:\/=+\-@ ]+".into()
    };
    TenantId::parse(&text)
        .map(Some)
        .ok_or_else(|| ApiError::constraint(&text, "tenantId", &constraint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_tenant_is_one_header_of_lambdas_form() {
        assert_eq!(parse(&with(&["blue"])).unwrap(), TenantId::parse("blue"));
        for none in [&[][..], &[""]] {
            assert_eq!(parse(&with(none)).unwrap(), None);
        }
        for (bad, why) in [
            (&["blue", "green"][..], "only once"),
            (&["blue", "blue"][..], "only once"),
            (
                &["a,b"][..],
                "'tenantId' failed to satisfy constraint: Member must satisfy",
            ),
            (&[&*"x".repeat(257)][..], "less than or equal to 256"),
        ] {
            let refused = format!("{:?}", parse(&with(bad)).unwrap_err());
            assert!(refused.contains(why), "{bad:?}: {refused}");
        }
    }
}
