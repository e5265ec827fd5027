//! Changes provisioned concurrency of versions and aliases, and sets it in the pool.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::Change;
use super::concurrency::{LEAST_UNRESERVED, left_with};
use super::control::{ControlError, Deployer, now};
use crate::function::{FunctionName, ProvisionedRecord, VersionId};
use crate::registry::Function;

impl Deployer {
    /// Sets the provisioned concurrency of a version or alias.
    pub(crate) async fn put_provisioned(
        &self,
        name: &FunctionName,
        qualifier: &str,
        requested: u32,
    ) -> Result<Arc<Function>, ControlError> {
        let put = |change: &mut Change<'_>| put(change, qualifier, requested);
        let (function, ()) = self.change(name, put).await?;
        for number in wanted(&function).into_keys() {
            let version = function.versions.get(&number);
            if let Some(live) = version.and_then(|version| version.live.as_ref()) {
                // A new request tries again after failed starts.
                self.pool.provision_again(live);
            }
        }
        Ok(function)
    }

    /// Sets the provisioned concurrency of each version in the pool.
    pub(super) fn provision(&self, function: &Function) {
        self.set_claim(function);
        let wanted = wanted(function);
        for (number, version) in &function.versions {
            if let Some(live) = &version.live {
                let requested = wanted.get(number).copied().unwrap_or(0);
                self.pool.set_provisioned(live, requested);
            }
        }
    }
}

fn put(change: &mut Change<'_>, qualifier: &str, requested: u32) -> Result<(), ControlError> {
    check_overlap(&change.function, qualifier)?;
    // An instance that starts without an invocation has no tenant.
    if change.function.record.config.tenant_isolation {
        return Err(ControlError::Invalid(
            "Provisioned Concurrency is not supported for functions with tenant isolation mode"
                .into(),
        ));
    }
    let record = ProvisionedRecord {
        requested,
        last_modified: now(),
    };
    let provisioned = &mut change.function.record.provisioned;
    provisioned.insert(qualifier.into(), record);
    check_limits(change, requested)
}

/// Removes the provisioned concurrency of a version or alias. Without any, nothing changes.
pub(crate) fn delete(change: &mut Change<'_>, qualifier: &str) -> Result<(), ControlError> {
    let provisioned = &mut change.function.record.provisioned;
    if provisioned.remove(qualifier).is_none() {
        change.write_nothing();
    }
    Ok(())
}

/// Checks the limits of provisioned concurrency.
fn check_limits(change: &Change<'_>, requested: u32) -> Result<(), ControlError> {
    let refuse = |message: String| Err(ControlError::Invalid(message));
    let total = total(&change.function);
    let reserved = change.function.record.reserved_concurrency;
    if reserved.is_some_and(|reserved| reserved < total) {
        return refuse(
            "Requested Provisioned Concurrency should not be greater than the \
             reservedConcurrentExecution for function"
                .into(),
        );
    }
    let limit = change.pool.concurrency().limit();
    if requested > limit {
        return refuse(format!(
            "Specified ConcurrentExecutions for function is greater than account's unreserved \
             concurrency [{limit}]."
        ));
    }
    if left_with(change) < i64::from(LEAST_UNRESERVED) {
        return refuse(format!(
            "Specified ConcurrentExecutions for function decreases account's \
             UnreservedConcurrentExecution below its minimum value of [{LEAST_UNRESERVED}]."
        ));
    }
    Ok(())
}

/// The provisioned concurrency of all versions and aliases of a function.
pub(super) fn total(function: &Function) -> u32 {
    let requested = function.record.provisioned.values().map(|p| p.requested);
    requested.fold(0, u32::saturating_add)
}

/// The provisioned concurrency of each version, by its number or by aliases.
fn wanted(function: &Function) -> BTreeMap<u32, u32> {
    let mut wanted = BTreeMap::new();
    for (qualifier, record) in &function.record.provisioned {
        if let Some(number) = number_of(function, qualifier) {
            let sum: &mut u32 = wanted.entry(number).or_default();
            *sum = sum.saturating_add(record.requested);
        }
    }
    wanted
}

/// The published version that a qualifier names.
fn number_of(function: &Function, qualifier: &str) -> Option<u32> {
    let version = match VersionId::parse(qualifier) {
        Ok(version) => version,
        Err(_) => function.record.aliases.get(qualifier)?.version,
    };
    match version {
        VersionId::Latest => None,
        VersionId::Number(number) => Some(number),
    }
}

/// Checks that a version is not provisioned both by its number and by aliases.
fn check_overlap(function: &Function, qualifier: &str) -> Result<(), ControlError> {
    let number = number_of(function, qualifier);
    if number.is_none() {
        return Err(ControlError::Invalid(
            "Provisioned Concurrency Configs cannot be applied to unpublished function versions."
                .into(),
        ));
    }
    let by_number = VersionId::parse(qualifier).is_ok();
    let other_kind = |other: &&String| {
        VersionId::parse(other).is_ok() != by_number && number_of(function, other) == number
    };
    match (
        function.record.provisioned.keys().find(other_kind),
        by_number,
    ) {
        (None, _) => Ok(()),
        (Some(_), true) => Err(ControlError::Conflict(
            "Version is pointed by a Provisioned Concurrency alias",
        )),
        (Some(_), false) => Err(ControlError::Conflict(
            "Alias can't be used for Provisioned Concurrency configuration on an already \
             Provisioned version",
        )),
    }
}
