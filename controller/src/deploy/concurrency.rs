//! Changes reserved concurrency.

use super::change::Change;
use super::control::{ControlError, Deployer};
use super::provisioning::total;
use crate::pool::Claim;
use crate::registry::Function;

/// Minimum of the unreserved concurrency, as on Lambda.
pub(super) const LEAST_UNRESERVED: u32 = 100;

/// Sets or removes a function's reserved concurrency.
pub(crate) fn reserve(change: &mut Change<'_>, reserved: Option<u32>) -> Result<(), ControlError> {
    change.function.record.reserved_concurrency = reserved;
    match reserved {
        Some(reserved) => check_unreserved(change, reserved),
        None => Ok(()),
    }
}

/// Checks that the function's versions have enough of its reserved concurrency, and that enough is left for
/// other functions.
fn check_unreserved(change: &Change<'_>, reserved: u32) -> Result<(), ControlError> {
    let total = total(&change.function);
    if reserved < total {
        // The spaces are Lambda's.
        return Err(ControlError::Untyped(format!(
            " ReservedConcurrentExecutions  {reserved} should not be lower than function's total \
             provisioned concurrency [{total}]."
        )));
    }
    if left_with(change) >= i64::from(LEAST_UNRESERVED) {
        return Ok(());
    }
    Err(ControlError::Invalid(format!(
        "Specified ReservedConcurrentExecutions for function decreases account's \
         UnreservedConcurrentExecution below its minimum value of [{LEAST_UNRESERVED}]."
    )))
}

/// The unreserved concurrency with this function's record.
pub(super) fn left_with(change: &Change<'_>) -> i64 {
    let concurrency = change.pool.concurrency();
    concurrency.unreserved_with(&change.function.record.name, claim(&change.function))
}

impl Deployer {
    /// Sets the function's claim in the pool, and the instances that are set aside for it.
    pub(super) fn set_claim(&self, function: &Function) {
        let name = &function.record.name;
        self.pool.concurrency().set_claim(name, claim(function));
        let reserved = function.record.reserved_concurrency.unwrap_or(0);
        let memory = function
            .all_live()
            .map(|version| version.config.memory_mib)
            .max();
        // Until its first deploy has succeeded, it has no version that serves.
        let memory = memory.unwrap_or(function.record.config.memory_mib);
        self.pool.reserve(name, reserved, memory);
    }
}

fn claim(function: &Function) -> Claim {
    Claim {
        reserved: function.record.reserved_concurrency,
        provisioned: total(function),
    }
}
