//! Encrypts environment variables at rest, with a key in a file of its own that is made at the first
//! start.
//!
//! XChaCha20-Poly1305 with a random nonce for each text. The function's name is authenticated with the
//! text, so that a text that was copied to another function can't be decrypted there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Generate, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde_json::Value;

/// The prefix of encrypted texts.
const SCHEME: &str = "xchacha20poly1305:";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// Why a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read or created.
    #[error("key file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The registry has encrypted values, but there is no key file.
    #[error(
        "there is no key file {}, and the registry's environment variables can't be read without \
         it: put it back, or name another one with --key-file", .0.display()
    )]
    Missing(PathBuf),
    /// Other users may read the file.
    #[error(
        "key file {} has mode {mode:o}: only its owner may read it (chmod 600)", path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file does not contain a key.
    #[error("key file {} is not valid: expected {KEY_BYTES} bytes in base64", .0.display())]
    Malformed(PathBuf),
}

/// A text can't be decrypted: it is damaged, or was encrypted with another key or for another function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "its environment variables can't be decrypted with this key: the key file is not the one that \
     they were encrypted with, or the registry is damaged"
)]
pub struct NotDecrypted;

/// Encrypts and decrypts.
#[derive(Clone)]
pub(crate) struct Cipher(XChaCha20Poly1305);

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// Reads the key in `path`. If there is none, makes one if `may_make`.
    pub(super) fn open(path: &Path, may_make: bool) -> Result<Self, KeyError> {
        match read_key(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if !may_make {
                    return Err(KeyError::Missing(path.into()));
                }
                make_key(path).map_err(|source| KeyError::Io {
                    path: path.into(),
                    source,
                })?;
                tracing::info!(
                    path = %path.display(),
                    "the controller has made a key for environment variables"
                );
                read_key(path)
            }
            other => other,
        }
    }

    /// Encrypts a value that belongs to `owner`.
    pub(super) fn encrypt(&self, value: &Value, owner: &str) -> Value {
        let nonce = XNonce::generate();
        let text = value.to_string();
        let payload = Payload {
            msg: text.as_bytes(),
            aad: owner.as_bytes(),
        };
        let encrypted = self.0.encrypt(&nonce, payload);
        let encrypted = encrypted.expect("a value in memory is shorter than 256 GiB");
        let text = STANDARD.encode([&nonce[..], &encrypted].concat());
        format!("{SCHEME}{text}").into()
    }

    /// Decrypts a value that [`Cipher::encrypt`] has encrypted for the same owner.
    pub(super) fn decrypt(&self, encrypted: &Value, owner: &str) -> Result<Value, NotDecrypted> {
        let text = encrypted
            .as_str()
            .and_then(|text| text.strip_prefix(SCHEME));
        let bytes = STANDARD
            .decode(text.ok_or(NotDecrypted)?)
            .map_err(|_| NotDecrypted)?;
        let (nonce, encrypted) = bytes.split_at_checked(NONCE_BYTES).ok_or(NotDecrypted)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().expect("split there");
        let payload = Payload {
            msg: encrypted,
            aad: owner.as_bytes(),
        };
        let opened = self.0.decrypt(&XNonce::from(nonce), payload);
        serde_json::from_slice(&opened.map_err(|_| NotDecrypted)?).map_err(|_| NotDecrypted)
    }
}

fn read_key(path: &Path) -> Result<Cipher, KeyError> {
    let io = |source| KeyError::Io {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.into(),
            mode,
        });
    }
    let mut text = String::new();
    // A key is short; the file may be anything.
    file.take(1024).read_to_string(&mut text).map_err(io)?;
    let key: [u8; KEY_BYTES] = STANDARD
        .decode(text.trim())
        .ok()
        .and_then(|key| key.try_into().ok())
        .ok_or_else(|| KeyError::Malformed(path.into()))?;
    Ok(Cipher(XChaCha20Poly1305::new(&key.into())))
}

/// Makes a key file: complete or not at all, and on disk before anything is encrypted with the key.
fn make_key(path: &Path) -> io::Result<()> {
    let key = <[u8; KEY_BYTES]>::generate();
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    writeln!(file, "{}", STANDARD.encode(key))?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    pub(crate) fn cipher(dir: &Path) -> Cipher {
        Cipher::open(&dir.join("key"), true).unwrap()
    }

    #[test]
    fn an_encrypted_value_is_decrypted_for_its_owner_and_shows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cipher = cipher(dir.path());
        let value = json!({ "PASSWORD": "hunter2" });
        let encrypted = cipher.encrypt(&value, "f");
        assert!(!encrypted.to_string().contains("hunter2"));
        assert!(!encrypted.to_string().contains("PASSWORD"));
        assert_eq!(cipher.decrypt(&encrypted, "f").unwrap(), value);
        assert_ne!(
            cipher.encrypt(&value, "f"),
            encrypted,
            "never the same twice"
        );
        assert_eq!(cipher.decrypt(&encrypted, "g"), Err(NotDecrypted));
    }

    #[test]
    fn a_text_that_was_damaged_or_cut_off_is_not_decrypted() {
        let dir = tempfile::tempdir().unwrap();
        let cipher = cipher(dir.path());
        let encrypted = cipher.encrypt(&json!({ "A": "b" }), "f");
        let text = encrypted.as_str().unwrap();
        let mut changed = text.to_owned().into_bytes();
        let last = changed.len() - 6;
        changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
        for bad in [
            json!(String::from_utf8(changed).unwrap()),
            json!(text[..text.len() - 4]),
            json!(SCHEME),
            json!(""),
            json!({ "A": "b" }),
            json!(null),
        ] {
            assert_eq!(cipher.decrypt(&bad, "f"), Err(NotDecrypted), "{bad}");
        }
    }

    #[test]
    fn the_key_is_made_once_readable_by_its_owner_only_and_another_decrypts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let first = Cipher::open(&one, true).unwrap();
        assert_eq!(fs::metadata(&one).unwrap().mode() & 0o777, 0o600);
        let encrypted = first.encrypt(&json!("v"), "f");
        let again = Cipher::open(&one, false).unwrap();
        assert_eq!(again.decrypt(&encrypted, "f").unwrap(), "v");
        let other = Cipher::open(&two, true).unwrap();
        assert_eq!(other.decrypt(&encrypted, "f"), Err(NotDecrypted));
    }

    #[test]
    fn a_key_file_that_is_missing_exposed_or_invalid_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("the-key");
        let refused = |expected: &str| {
            let error = Cipher::open(&path, false).unwrap_err().to_string();
            assert!(
                error.contains("the-key") && error.contains(expected),
                "{error}"
            );
        };
        refused("there is no key file");
        make_key(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        refused("mode 640");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "c2hvcnQ=\n").unwrap();
        refused("expected 32 bytes");
    }
}
