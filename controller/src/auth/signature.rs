//! The HMAC of a canonical request, with a signing key for one day, region and service.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::key::Secret;
use super::{ALGORITHM, SERVICE, TERMINATOR};
use crate::hex::hex;

type HmacSha256 = Hmac<Sha256>;

/// Length of a signature in bytes.
pub(super) const LENGTH: usize = 32;

/// The scope of a signature.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// `20261122`.
    pub(super) day: &'a str,
    pub(super) region: &'a str,
}

impl Scope<'_> {
    /// The scope as it follows the key's id in a credential.
    pub(super) fn text(self) -> String {
        format!("{}/{}/{SERVICE}/{TERMINATOR}", self.day, self.region)
    }
}

/// The signature of a canonical request.
pub(super) fn sign(
    secret: &Secret,
    scope: Scope<'_>,
    timestamp: &str,
    canonical: &[u8],
) -> [u8; LENGTH] {
    mac(secret, scope, timestamp, canonical)
        .finalize()
        .into_bytes()
        .into()
}

/// Whether `given` is the signature of a canonical request. Compares in constant time.
pub(super) fn is_signature_of(
    secret: &Secret,
    scope: Scope<'_>,
    timestamp: &str,
    canonical: &[u8],
    given: &[u8; LENGTH],
) -> bool {
    mac(secret, scope, timestamp, canonical)
        .verify_slice(given)
        .is_ok()
}

fn mac(secret: &Secret, scope: Scope<'_>, timestamp: &str, canonical: &[u8]) -> HmacSha256 {
    let first = [b"AWS4", secret.expose().as_bytes()].concat();
    let day = keyed(&first, scope.day.as_bytes());
    let region = keyed(&day, scope.region.as_bytes());
    let service = keyed(&region, SERVICE.as_bytes());
    let key = keyed(&service, TERMINATOR.as_bytes());
    let to_sign = format!(
        "{ALGORITHM}\n{timestamp}\n{}\n{}",
        scope.text(),
        hex(&Sha256::digest(canonical))
    );
    start(&key).chain_update(to_sign)
}

fn keyed(key: &[u8], message: &[u8]) -> [u8; LENGTH] {
    start(key)
        .chain_update(message)
        .finalize()
        .into_bytes()
        .into()
}

fn start(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// SHA-256 of a body, as the canonical request contains it.
#[derive(Debug, Default)]
pub(crate) struct BodyHash(Sha256);

impl BodyHash {
    /// The hash of a body in one piece.
    pub(crate) fn of(body: &[u8]) -> String {
        let mut hash = Self::default();
        hash.update(body);
        hash.finish()
    }

    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub(crate) fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_more_or_less_is_no_signature() {
        let secret = Secret::new("secret".into());
        let scope = Scope {
            day: "20150830",
            region: "us-east-1",
        };
        let signature = sign(&secret, scope, "20150830T123600Z", b"request");
        let holds = |given: &[u8; LENGTH], canonical: &[u8]| {
            is_signature_of(&secret, scope, "20150830T123600Z", canonical, given)
        };
        assert!(holds(&signature, b"request"));
        assert!(!holds(&signature, b"Request"));
        for bit in 0..LENGTH * 8 {
            let mut other = signature;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!holds(&other, b"request"), "bit {bit}");
        }
    }
}
