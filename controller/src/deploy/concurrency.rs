//! Changes reserved concurrency.

use std::sync::Arc;

use super::control::{ControlError, Deployer};
use super::provisioning::total;
use crate::function::FunctionName;
use crate::pool::Claim;
use crate::registry::Function;

/// Minimum of the unreserved concurrency, as on Lambda.
pub(super) const LEAST_UNRESERVED: u32 = 100;

impl Deployer {
    /// Sets or removes a function's reserved concurrency.
    pub(crate) async fn reserve_concurrency(
        &self,
        name: &FunctionName,
        reserved: Option<u32>,
    ) -> Result<Arc<Function>, ControlError> {
        let writer = self.catalog.write().await;
        let before = writer.get(name).ok_or(ControlError::NotFound)?;
        let mut function = Function::clone(&before);
        function.record.reserved_concurrency = reserved;
        if reserved.is_some() {
            self.check_unreserved(&function)?;
        }
        let function = writer.put(function).await?;
        self.set_claim(&function);
        Ok(function)
    }

    /// Checks that enough concurrency stays unreserved with this function's record.
    pub(super) fn check_unreserved(&self, function: &Function) -> Result<(), ControlError> {
        let (total, reserved) = (total(function), function.record.reserved_concurrency);
        if let Some(reserved) = reserved.filter(|reserved| *reserved < total) {
            // The spaces are Lambda's.
            return Err(ControlError::Untyped(format!(
                " ReservedConcurrentExecutions  {reserved} should not be lower than function's total \
                 provisioned concurrency [{total}]."
            )));
        }
        if self.left_with(function) >= i64::from(LEAST_UNRESERVED) {
            return Ok(());
        }
        Err(ControlError::Invalid(format!(
            "Specified ReservedConcurrentExecutions for function decreases account's \
             UnreservedConcurrentExecution below its minimum value of [{LEAST_UNRESERVED}]."
        )))
    }

    /// The unreserved concurrency with this function's record.
    pub(super) fn left_with(&self, function: &Function) -> i64 {
        let concurrency = self.pool.concurrency();
        concurrency.unreserved_with(&function.record.name, claim(function))
    }

    /// Sets the function's claim in the pool.
    pub(super) fn set_claim(&self, function: &Function) {
        let name = &function.record.name;
        self.pool.concurrency().set_claim(name, claim(function));
    }
}

fn claim(function: &Function) -> Claim {
    Claim {
        reserved: function.record.reserved_concurrency,
        provisioned: total(function),
    }
}
