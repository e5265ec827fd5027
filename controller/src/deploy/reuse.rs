//! A deploy whose snapshot exists already uses it instead of making another one.
//!
//! The fingerprint decides: it covers everything that a guest can see until its init ends, so two deploys
//! with the same fingerprint would make the same snapshot, up to the time, the random numbers and the name
//! of the log stream that init sees. These differ between instances of one snapshot no more than between
//! instances of two deploys that share it: each restore reseeds what can be reseeded
//! (`sandbox/SNAPSHOTS.md`).

use std::sync::Arc;

use super::builder::Builder;
use super::host::reading;
use super::intake::ImageGuard;
use super::source::Source;
use crate::function::Artefacts;

impl Builder {
    /// The artefacts that a deploy of `source` can use: some of `live`, which versions that serve have, or those
    /// of a replaced version. They are compared with their seal. The caller becomes an owner of them.
    pub(super) async fn reuse(
        &self,
        source: Source<'_>,
        live: &[Arc<Artefacts>],
    ) -> Option<Arc<Artefacts>> {
        let config = source.config;
        let base = self.host.base(config.runtime, config.memory_mib).ok()?;
        let fingerprints = self.fingerprints(&base, source);
        let found = live
            .iter()
            .find(|artefacts| artefacts.fits(&fingerprints))
            .cloned()
            .or_else(|| self.kept.take(source.incarnation, &fingerprints))?;
        // The image that was made for this deploy may be another link to that of the snapshot. It goes first,
        // because removing a link changes the stamp by which the seal knows the file.
        drop(ImageGuard(Some(self.data.image(source.key))));
        let compared = found.clone();
        if let Err(error) = reading(move || compared.sealed().verify()).await {
            // If a version serves from it, its next start finds that too.
            tracing::warn!(
                function = %source.name,
                version = %source.version,
                snapshot = found.files.key,
                %error,
                "a deploy can't use the snapshot that exists"
            );
            return None;
        }
        found.own();
        self.metrics.reuses.inc();
        tracing::info!(
            function = %source.name,
            version = %source.version,
            key = source.key,
            snapshot = found.files.key,
            "a deploy uses the snapshot of an earlier deploy: init does not run again"
        );
        Some(found)
    }
}

#[cfg(test)]
#[path = "reuse_tests.rs"]
pub(super) mod tests;
