//! The errors of authentication and authorization. Types and messages are AWS's, because clients match
//! them and people search for them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// Why a request was refused.
#[derive(Debug)]
pub(crate) enum AuthError {
    /// It is not signed.
    Missing,
    /// Parts of the signature are missing or can't be parsed.
    Incomplete(String),
    /// The signature is complete but not valid.
    Invalid(String),
    /// There is no such key.
    Unrecognized,
    /// The key does not permit the action.
    Denied {
        /// ARN of the caller.
        caller: String,
        /// Such as `lambda:InvokeFunction`.
        action: String,
        /// ARN, or `*`.
        resource: String,
    },
    /// The controller can't read the keys, so it refuses all requests.
    Keys,
}

impl AuthError {
    /// The error's type in `x-amzn-ErrorType`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "MissingAuthenticationTokenException",
            Self::Incomplete(_) => "IncompleteSignatureException",
            Self::Invalid(_) => "InvalidSignatureException",
            Self::Unrecognized => "UnrecognizedClientException",
            Self::Denied { .. } => "AccessDeniedException",
            Self::Keys => "ServiceException",
        }
    }

    /// The HMAC does not match the request.
    pub(super) fn mismatch() -> Self {
        Self::Invalid(
            "The request signature we calculated does not match the signature you provided. Check \
             your AWS Secret Access Key and signing method. Consult the service documentation for \
             details."
                .into(),
        )
    }

    pub(super) fn not_signed(header: &str) -> Self {
        Self::Invalid(format!(
            "{header} must be a 'SignedHeader' in the AWS Authorization."
        ))
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("Missing Authentication Token"),
            Self::Incomplete(message) | Self::Invalid(message) => f.write_str(message),
            Self::Unrecognized => {
                f.write_str("The security token included in the request is invalid.")
            }
            Self::Denied {
                caller,
                action,
                resource,
            } => write!(
                f,
                "User: {caller} is not authorized to perform: {action} on resource: {resource} \
                 because no identity-based policy allows the {action} action"
            ),
            // The log has the path and the cause. The client must not learn them.
            Self::Keys => f.write_str("The access keys could not be read"),
        }
    }
}

/// The hash that a message shows in place of an `Authorization` header, which may hold a secret by
/// mistake.
pub(super) fn hashed(header: &str) -> String {
    STANDARD.encode(Sha256::digest(header))
}
