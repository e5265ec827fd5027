//! Secrets at rest: environment variables are stored encrypted, with a key that lies in a file of
//! its own and is made at the first start.
//!
//! XChaCha20-Poly1305 with a random nonce for each text. What it belongs to is authenticated with
//! it, so that a text that was copied to another function does not open there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Generate, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde_json::Value;

/// In front of what is encrypted: how it is.
const SCHEME: &str = "xchacha20poly1305:";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// Why a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file.
    #[error("key file {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// There should be one.
    #[error(
        "there is no key file {}, and the registry's environment variables can't be read without \
         it: put it back, or say --key-file", .0.display()
    )]
    Missing(PathBuf),
    /// Others may read it.
    #[error(
        "key file {} has mode {mode:o}: nobody but its owner may read it (chmod 600)", path.display()
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not a key.
    #[error("key file {} is none: expected {KEY_BYTES} bytes in base64", .0.display())]
    Malformed(PathBuf),
}

/// A text that does not open: another key, another function, or damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "its environment variables do not open with this key: the key file is not the one that they \
     were written with, or the registry is damaged"
)]
pub struct NotOpened;

/// Encrypts and decrypts.
#[derive(Clone)]
pub(crate) struct Sealer(XChaCha20Poly1305);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// Reads the key in `path`; where there is none it is made, if `may_make`.
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
                tracing::info!(path = %path.display(), "key for environment variables made");
                read_key(path)
            }
            other => other,
        }
    }

    /// Encrypts a value that belongs to `owner`.
    pub(super) fn seal(&self, value: &Value, owner: &str) -> Value {
        let nonce = XNonce::generate();
        let text = value.to_string();
        let payload = Payload {
            msg: text.as_bytes(),
            aad: owner.as_bytes(),
        };
        let sealed = self.0.encrypt(&nonce, payload);
        let sealed = sealed.expect("a value in memory is shorter than 256 GiB");
        let text = STANDARD.encode([&nonce[..], &sealed].concat());
        format!("{SCHEME}{text}").into()
    }

    /// Decrypts what [`Sealer::seal`] made for the same owner.
    pub(super) fn open_sealed(&self, sealed: &Value, owner: &str) -> Result<Value, NotOpened> {
        let text = sealed.as_str().and_then(|text| text.strip_prefix(SCHEME));
        let bytes = STANDARD
            .decode(text.ok_or(NotOpened)?)
            .map_err(|_| NotOpened)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES).ok_or(NotOpened)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().expect("split there");
        let payload = Payload {
            msg: sealed,
            aad: owner.as_bytes(),
        };
        let opened = self.0.decrypt(&XNonce::from(nonce), payload);
        serde_json::from_slice(&opened.map_err(|_| NotOpened)?).map_err(|_| NotOpened)
    }
}

fn read_key(path: &Path) -> Result<Sealer, KeyError> {
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
    // A key is short, whatever the file is.
    file.take(1024).read_to_string(&mut text).map_err(io)?;
    let key: [u8; KEY_BYTES] = STANDARD
        .decode(text.trim())
        .ok()
        .and_then(|key| key.try_into().ok())
        .ok_or_else(|| KeyError::Malformed(path.into()))?;
    Ok(Sealer(XChaCha20Poly1305::new(&key.into())))
}

/// Whole or not at all, and on disk before anything is encrypted with it.
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

    pub(crate) fn sealer(dir: &Path) -> Sealer {
        Sealer::open(&dir.join("key"), true).unwrap()
    }

    #[test]
    fn a_sealed_value_opens_for_its_owner_and_shows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = sealer(dir.path());
        let value = json!({ "PASSWORD": "hunter2" });
        let sealed = sealer.seal(&value, "f");
        assert!(!sealed.to_string().contains("hunter2"));
        assert!(!sealed.to_string().contains("PASSWORD"));
        assert_eq!(sealer.open_sealed(&sealed, "f").unwrap(), value);
        assert_ne!(sealer.seal(&value, "f"), sealed, "never the same twice");
        assert_eq!(sealer.open_sealed(&sealed, "g"), Err(NotOpened));
    }

    #[test]
    fn what_was_damaged_or_cut_off_does_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = sealer(dir.path());
        let sealed = sealer.seal(&json!({ "A": "b" }), "f");
        let text = sealed.as_str().unwrap();
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
            assert_eq!(sealer.open_sealed(&bad, "f"), Err(NotOpened), "{bad}");
        }
    }

    #[test]
    fn the_key_is_made_once_for_its_owner_alone_and_another_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let first = Sealer::open(&one, true).unwrap();
        assert_eq!(fs::metadata(&one).unwrap().mode() & 0o777, 0o600);
        let sealed = first.seal(&json!("v"), "f");
        let again = Sealer::open(&one, false).unwrap();
        assert_eq!(again.open_sealed(&sealed, "f").unwrap(), "v");
        let other = Sealer::open(&two, true).unwrap();
        assert_eq!(other.open_sealed(&sealed, "f"), Err(NotOpened));
    }

    #[test]
    fn a_key_that_is_missing_exposed_or_none_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("the-key");
        let refused = |expected: &str| {
            let error = Sealer::open(&path, false).unwrap_err().to_string();
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
