//! Changes of a function that need no deploy: its aliases, URLs, tags, policies and concurrency.
//!
//! Each is a function over a [`Change`], which sees and changes the function's record and nothing else. What
//! all have in common is in [`Deployer::change`].

use std::sync::Arc;

use super::control::{ControlError, Deployer};
use crate::function::FunctionName;
use crate::pool::Pool;
use crate::registry::Function;

/// A function that is being changed.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    /// As it will be stored. At first it is as it is.
    pub(super) function: Function,
    /// For the limits that the record has to respect.
    pub(super) pool: &'a Pool,
    changed: bool,
}

impl Change<'_> {
    /// Says that the function is as the client wants it already, so that nothing has to be stored.
    pub(super) fn write_nothing(&mut self) {
        self.changed = false;
    }
}

impl Deployer {
    /// Changes a function while no other change runs. If `change` refuses, nothing has changed. Otherwise the
    /// record is on disk, and the pool has the limits that follow from it, when this returns. Returns the
    /// function after the change, and what `change` has returned.
    pub(crate) async fn change<T, E: From<ControlError>>(
        &self,
        name: &FunctionName,
        change: impl FnOnce(&mut Change<'_>) -> Result<T, E>,
    ) -> Result<(Arc<Function>, T), E> {
        let writer = self.catalog.write().await;
        let before = writer.get(name).ok_or(ControlError::NotFound)?;
        let mut changing = Change {
            function: Function::clone(&before),
            pool: &self.pool,
            changed: true,
        };
        let result = change(&mut changing)?;
        if !changing.changed {
            return Ok((before, result));
        }
        let function = writer.put(changing.function).await;
        let function = function.map_err(ControlError::Registry)?;
        self.provision(&function);
        Ok((function, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::builder::tests::artefacts_of_host;
    use crate::deploy::reuse::tests::deployer;
    use crate::deploy::{aliases, annotations};
    use crate::function::AliasName;
    use crate::pool::double::Stage;
    use crate::registry::test_record;

    #[tokio::test]
    async fn a_change_that_is_refused_or_has_nothing_to_do_leaves_the_function_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        artefacts_of_host(folder.path());
        let deployer = deployer(folder.path(), &Stage::new());
        let name = FunctionName::parse("f").unwrap();
        let alias = AliasName::parse("gone").unwrap();
        let delete = |change: &mut Change<'_>| aliases::delete(change, &alias);
        let missing = deployer.change(&name, delete).await;
        assert!(matches!(missing, Err(ControlError::NotFound)));
        let writer = deployer.catalog.write().await;
        let before = writer.put(Function::new(test_record("f"))).await.unwrap();
        drop(writer);
        let (after, ()) = deployer.change(&name, delete).await.unwrap();
        assert!(Arc::ptr_eq(&before, &after), "nothing was written");
        let refuse = |change: &mut Change<'_>| {
            change.function.record.tags.insert("a".into(), "b".into());
            Err::<(), _>(ControlError::Busy)
        };
        deployer.change(&name, refuse).await.unwrap_err();
        assert!(Arc::ptr_eq(&before, &deployer.catalog.get(&name).unwrap()));
        let tag = |change: &mut Change<'_>| {
            annotations::change_tags(change, |tags| {
                tags.insert("a".into(), "b".into());
                Ok::<_, ControlError>(())
            })
        };
        let (after, ()) = deployer.change(&name, tag).await.unwrap();
        assert_eq!(after.record.tags.len(), 1);
        assert_ne!(after.record.revision_id, before.record.revision_id);
        assert!(Arc::ptr_eq(&after, &deployer.catalog.get(&name).unwrap()));
    }
}
