//! Tenants of a function with tenant isolation.

use std::sync::Arc;

/// Longest identifier, in characters.
pub(crate) const MAX_TENANT_ID: usize = 256;

/// Which tenant an invocation is for. An instance serves the invocations of one tenant alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TenantId(Arc<str>);

impl TenantId {
    /// Parses 1 to 256 characters of Lambda's set.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._:/=+-@ ".contains(&b);
        let fits = (1..=MAX_TENANT_ID).contains(&text.len()) && text.bytes().all(good);
        fits.then(|| Self(text.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_up_to_256_characters_of_lambdas_set() {
        for good in ["b", "Blue-1", "a.b_c:d/e=f+g-h@i j", &"x".repeat(256)] {
            assert_eq!(TenantId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a,b", "a\nb", "a#", "\u{e9}", &"x".repeat(257)] {
            assert_eq!(TenantId::parse(bad), None, "{bad:?}");
        }
    }
}
