//! Code packages, stored under the SHA-256 of their content.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::function::Code;
use crate::hex::hex;

/// The package store: an [`ObjectStore`] over a folder.
#[derive(Debug, Clone)]
pub(crate) struct Packages {
    store: Arc<dyn ObjectStore>,
}

impl Packages {
    /// A store in an existing folder. A package is on disk when `put` returns.
    pub(crate) fn in_folder(folder: &Path) -> Result<Self, object_store::Error> {
        let store = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        Ok(Self {
            store: Arc::new(store),
        })
    }

    /// The hash and size of `package`.
    pub(crate) fn code(package: &[u8]) -> Code {
        Code {
            sha256: hex(&Sha256::digest(package)),
            size: package.len() as u64,
            unpacked: 0,
        }
    }

    pub(crate) async fn put(&self, code: &Code, package: Bytes) -> Result<(), object_store::Error> {
        self.store
            .put(&Key::from(code.sha256.as_str()), package.into())
            .await
            .map(drop)
    }

    pub(crate) async fn get(&self, code: &Code) -> Result<Bytes, object_store::Error> {
        self.store
            .get(&Key::from(code.sha256.as_str()))
            .await?
            .bytes()
            .await
    }

    /// The size of a package, and a stream of its bytes.
    pub(crate) async fn stream(
        &self,
        sha256: &str,
    ) -> Result<(u64, BoxStream<'static, Result<Bytes, object_store::Error>>), object_store::Error>
    {
        let found = self.store.get(&Key::from(sha256)).await?;
        Ok((found.meta.size, found.into_stream()))
    }

    pub(crate) async fn delete(&self, sha256: &str) -> Result<(), object_store::Error> {
        match self.store.delete(&Key::from(sha256)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_package_is_stored_unchanged_and_can_be_deleted_twice() {
        let dir = tempfile::tempdir().unwrap();
        let packages = Packages::in_folder(dir.path()).unwrap();
        let package = Bytes::from_static(b"PK");
        let code = Packages::code(&package);
        packages.put(&code, package.clone()).await.unwrap();
        packages.put(&code, package.clone()).await.unwrap();
        assert_eq!(packages.get(&code).await.unwrap(), package);
        packages.delete(&code.sha256).await.unwrap();
        packages.delete(&code.sha256).await.unwrap();
        assert!(packages.get(&code).await.is_err());
    }
}
