//! Reads code packages from the bodies of requests.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use crate::api::http::body;
use crate::api::http::error::ApiError;
use crate::api::http::unserved::{self, Asked};
use crate::api::http::violations::{Violations, enum_set};

/// Largest body of a create or update, in bytes: a 50 MB package in base64, and the other members.
const MAX_BODY: usize = 70_167_211;
/// Largest package, in bytes.
pub(crate) const MAX_PACKAGE: usize = 52_428_800;
/// Lambda's architectures, of layers and of functions.
pub(crate) const ARCHITECTURES: [&str; 2] = ["x86_64", "arm64"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CodeInput<'a> {
    #[serde(borrow)]
    zip_file: Option<Cow<'a, str>>,
    #[serde(default)]
    image_uri: Asked,
    #[serde(default, rename = "S3Bucket")]
    s3_bucket: Asked,
    #[serde(default, rename = "S3Key")]
    s3_key: Asked,
    #[serde(default, rename = "S3ObjectVersion")]
    s3_object_version: Asked,
    #[serde(default, rename = "S3ObjectStorageMode")]
    s3_object_storage_mode: Asked,
    #[serde(default, rename = "SourceKMSKeyArn")]
    source_kms_key_arn: Asked,
}

impl CodeInput<'_> {
    /// The package of an update.
    pub(crate) fn update(&self) -> Result<Bytes, ApiError> {
        if self.image_uri.asks() {
            return Err(ApiError::invalid(
                "Please don't provide ImageUri when updating a function with packageType Zip.",
            ));
        }
        self.package()
    }

    pub(crate) fn package(&self) -> Result<Bytes, ApiError> {
        unserved::refuse(&[
            ("ImageUri", self.image_uri),
            ("S3Bucket", self.s3_bucket),
            ("S3Key", self.s3_key),
            ("S3ObjectVersion", self.s3_object_version),
            ("S3ObjectStorageMode", self.s3_object_storage_mode),
            ("SourceKMSKeyArn", self.source_kms_key_arn),
        ])?;
        let Some(text) = &self.zip_file else {
            return Err(ApiError::invalid(
                "Please provide a source for function code.",
            ));
        };
        if text.len() / 4 * 3 > MAX_PACKAGE + 3 {
            return Err(ApiError::too_large(
                "RequestEntityTooLargeException",
                format!("Zipped size must be smaller than {MAX_PACKAGE} bytes"),
            ));
        }
        let package = STANDARD
            .decode(text.as_bytes())
            .map_err(|error| ApiError::serialization(format!("ZipFile is not base64: {error}")))?;
        Ok(package.into())
    }
}

/// Reads the body of a request that may carry a package.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    operation: &str,
) -> Result<Bytes, ApiError> {
    body::read(headers, body, MAX_BODY, || {
        ApiError::too_large(
            "RequestEntityTooLargeException",
            format!("Request must be smaller than {MAX_BODY} bytes for the {operation} operation"),
        )
    })
    .await
}

/// Checks the form of `PackageType` and `Architectures`.
pub(crate) fn check_kind(
    violations: &mut Violations,
    package_type: Option<&str>,
    architectures: Option<&[String]>,
) {
    if let Some(kind) = package_type {
        violations.one_of(kind, &["Zip", "Image"], "packageType");
    }
    if let Some(architectures) = architectures {
        let field = "architectures";
        violations.length(architectures, 1..=1, field);
        let known = enum_set(&ARCHITECTURES);
        let constraint =
            format!("Member must satisfy constraint: [{known}, Member must not be null]");
        violations.each_of(architectures, &ARCHITECTURES, field, &constraint);
    }
}

/// Refuses valid values that are not supported here.
pub(crate) fn refuse_unsupported(
    package_type: Option<&str>,
    architectures: Option<&[String]>,
) -> Result<(), ApiError> {
    if package_type == Some("Image") {
        return Err(ApiError::invalid("PackageType Image is not supported yet"));
    }
    if architectures.is_some_and(|architectures| architectures == ["arm64"]) {
        return Err(ApiError::invalid(
            "Architecture arm64 is not supported: this host is x86_64",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::http::wire::parse;

    #[test]
    fn a_package_is_base64_of_at_most_fifty_megabytes_and_nothing_else() {
        let code = |json: &str| -> Result<Bytes, ApiError> {
            parse::<CodeInput<'_>>(json.as_bytes())?.package()
        };
        assert_eq!(code(r#"{"ZipFile":"UEs="}"#).unwrap(), "PK");
        for bad in [
            r#"{}"#,
            r#"{"ZipFile":"not base64!"}"#,
            r#"{"ImageUri":"x"}"#,
            r#"{"S3Bucket":"b"}"#,
            r#"{"ZipFile":"UEs=","S3Key":"k"}"#,
            r#"{"ZipFile":"UEs=","SourceKMSKeyArn":"arn"}"#,
        ] {
            assert!(code(bad).is_err(), "{bad}");
        }
        let large = format!(r#"{{"ZipFile":"{}"}}"#, "A".repeat(70_000_000));
        assert!(code(&large).is_err());
    }
}
