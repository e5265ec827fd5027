//! Finds the function of a URL's id, because a host name contains only the id.

use std::collections::HashMap;
use std::sync::RwLock;

use crate::function::{FunctionName, FunctionUrls};
use crate::locks::{read, write};

/// For each id the function and the qualifier of its URL; an empty qualifier is `$LATEST`.
#[derive(Debug, Default)]
pub(crate) struct UrlIndex(RwLock<HashMap<String, (FunctionName, String)>>);

impl UrlIndex {
    pub(crate) fn find(&self, id: &str) -> Option<(FunctionName, String)> {
        let index = read(&self.0);
        index.get(id).cloned()
    }

    /// Replaces a function's URLs.
    pub(crate) fn change(
        &self,
        name: &FunctionName,
        before: Option<&FunctionUrls>,
        after: Option<&FunctionUrls>,
    ) {
        if before == after {
            return;
        }
        let mut index = write(&self.0);
        for url in before.into_iter().flat_map(FunctionUrls::values) {
            index.remove(&url.id);
        }
        for (qualifier, url) in after.into_iter().flatten() {
            index.insert(url.id.clone(), (name.clone(), qualifier.clone()));
        }
    }
}
