//! Records as JSON documents, with their environment variables encrypted.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::database::RegistryError;
use super::encryption::{Cipher, NotDecrypted};

/// JSON pointers to the environment variables in documents of functions and versions.
const SECRETS: [&str; 2] = ["/config/environment", "/deployed/config/environment"];

/// The document of a record of function `name`.
pub(super) fn to_document(
    cipher: &Cipher,
    name: &str,
    record: &impl Serialize,
) -> Result<String, RegistryError> {
    let document = serde_json::to_value(record);
    let mut document = document.map_err(|source| unreadable(name, source))?;
    encrypt(cipher, name, &mut document);
    Ok(document.to_string())
}

/// The record in a document of function `name`.
pub(super) fn from_document<T: DeserializeOwned>(
    cipher: &Cipher,
    name: &str,
    document: &str,
) -> Result<T, RegistryError> {
    let document = serde_json::from_str(document);
    let mut document = document.map_err(|source| unreadable(name, source))?;
    decrypt(cipher, name, &mut document).map_err(|source| RegistryError::NotDecrypted {
        name: name.into(),
        source,
    })?;
    serde_json::from_value(document).map_err(|source| unreadable(name, source))
}

/// The record in a document of function `name`, without its environment variables.
pub(super) fn without_secrets<T: DeserializeOwned>(name: &str, document: &str) -> Option<T> {
    let mut document: Value = serde_json::from_str(document).ok()?;
    for place in SECRETS {
        if let Some(secret) = document.pointer_mut(place) {
            *secret = Value::Null;
        }
    }
    let right = document.get("name").and_then(Value::as_str) == Some(name);
    right
        .then(|| serde_json::from_value(document).ok())
        .flatten()
}

/// Encrypts the environment variables in a document.
pub(super) fn encrypt(cipher: &Cipher, name: &str, document: &mut Value) {
    for place in SECRETS {
        if let Some(secret) = document.pointer_mut(place) {
            *secret = cipher.encrypt(secret, name);
        }
    }
}

fn decrypt(cipher: &Cipher, name: &str, document: &mut Value) -> Result<(), NotDecrypted> {
    for place in SECRETS {
        if let Some(secret) = document.pointer_mut(place) {
            *secret = cipher.decrypt(secret, name)?;
        }
    }
    Ok(())
}

fn unreadable(name: &str, source: serde_json::Error) -> RegistryError {
    RegistryError::Document {
        name: name.into(),
        source,
    }
}
