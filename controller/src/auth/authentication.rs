//! Decides once, at the start of the controller, whether clients have to sign their requests.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::key_file::{KeyFile, KeysError};
use super::key_ring::KeyRing;
use super::verify::Verifier;
use crate::settings::{Settings, SettingsError};

/// Whether the controller authenticates its clients.
#[derive(Debug, Clone)]
pub(crate) enum Authentication {
    /// It ignores signatures and accepts all requests.
    Off,
    /// It accepts only requests with a valid signature.
    Signatures(Arc<Verifier>),
}

/// Why the controller refuses to start.
#[derive(Debug, thiserror::Error)]
pub enum AuthSetupError {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The access keys can't be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The address is not a loopback address, and there is no key to sign with.
    #[error(
        "{0} is reachable from other machines and there is no access key: make one with \
         `hearth keys create NAME --admin --data-dir {path}`, or listen on 127.0.0.1, or add \
         --insecure if every client that reaches the port may run code", path = .1.display()
    )]
    Exposed(SocketAddr, PathBuf),
    /// Signatures are required, and there is no key to sign with.
    #[error(
        "signatures are required and there is no access key: make one with \
         `hearth keys create NAME --admin --data-dir {path}`", path = .0.display()
    )]
    NoKeys(PathBuf),
}

impl Authentication {
    /// A loopback address needs no signatures unless the settings require them; every other address
    /// needs them unless the settings say `insecure`. Fails if signatures are needed and there is no key.
    pub(crate) fn of(settings: &Settings) -> Result<Self, AuthSetupError> {
        let reachable = !settings.listen.ip().is_loopback();
        let signed = settings.require_signatures || (reachable && !settings.insecure);
        if !signed {
            return Ok(Self::Off);
        }
        let data_dir = settings.data_dir()?;
        let keys = KeyRing::open(KeyFile::of(&data_dir))?;
        if keys.is_empty() {
            return Err(if reachable {
                AuthSetupError::Exposed(settings.listen, data_dir)
            } else {
                AuthSetupError::NoKeys(data_dir)
            });
        }
        Ok(Self::Signatures(Arc::new(Verifier::new(
            keys,
            settings.region.clone(),
        ))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Permissions;

    fn settings(listen: &str, data: &std::path::Path) -> Settings {
        let mut settings = Settings::defaults().expect("an empty command line is fine");
        settings.listen = listen.parse().unwrap();
        settings.data_dir = Some(data.into());
        settings
    }

    #[test]
    fn an_address_beyond_loopback_needs_a_key_or_insecure() {
        let dir = tempfile::tempdir().unwrap();
        for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:127.0.0.1]:0"] {
            let mut settings = settings(listen, dir.path());
            let error = Authentication::of(&settings).unwrap_err().to_string();
            for said in [
                "hearth keys create",
                "--insecure",
                dir.path().to_str().unwrap(),
            ] {
                assert!(error.contains(said), "{error}");
            }
            settings.insecure = true;
            assert!(matches!(
                Authentication::of(&settings),
                Ok(Authentication::Off)
            ));
        }
        let keys = KeyFile::of(dir.path());
        keys.create("k", Permissions::admin()).unwrap();
        let settings = settings("0.0.0.0:0", dir.path());
        assert!(matches!(
            Authentication::of(&settings),
            Ok(Authentication::Signatures(_))
        ));
    }

    #[test]
    fn loopback_needs_no_signatures_unless_they_are_required() {
        let dir = tempfile::tempdir().unwrap();
        for listen in ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0"] {
            let mut settings = settings(listen, dir.path());
            assert!(matches!(
                Authentication::of(&settings),
                Ok(Authentication::Off)
            ));
            settings.require_signatures = true;
            settings.insecure = true;
            assert!(
                Authentication::of(&settings).is_err(),
                "there is no key yet"
            );
        }
    }

    #[test]
    fn keys_that_can_not_be_read_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(KeyFile::of(dir.path()).path(), "x").unwrap();
        assert!(Authentication::of(&settings("0.0.0.0:0", dir.path())).is_err());
    }
}
