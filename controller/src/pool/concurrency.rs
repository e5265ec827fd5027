//! Limits how many invocations run at once: the account's concurrency, and each function's share of it.
//!
//! Reserved concurrency is a guarantee and a maximum for its function. Provisioned concurrency is a
//! guarantee only: its function may use unreserved concurrency too. Unreserved concurrency is the rest of
//! the account's limit, for all functions. An invocation counts from its acceptance to its result,
//! whichever version it runs on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::function::FunctionName;
use crate::locks::lock;

/// A function's guaranteed share of the account's concurrency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Its reserved concurrency.
    pub(crate) reserved: Option<u32>,
    /// The provisioned concurrency of all its versions.
    pub(crate) provisioned: u32,
}

impl Claim {
    /// The part of the account's concurrency that other functions can't use.
    fn size(self) -> u32 {
        self.reserved.unwrap_or(self.provisioned)
    }

    /// How many of `running` invocations count against the unreserved concurrency.
    fn shared(self, running: u32) -> u32 {
        match self.reserved {
            Some(_) => 0,
            None => running.saturating_sub(self.provisioned),
        }
    }
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Account,
    Reserved,
}

#[derive(Debug, Default)]
struct Ledger {
    claims: HashMap<FunctionName, Claim>,
    running: HashMap<FunctionName, u32>,
    /// Number of running invocations that count against the unreserved concurrency.
    shared: u32,
}

impl Ledger {
    fn claim(&self, function: &FunctionName) -> Claim {
        self.claims.get(function).copied().unwrap_or_default()
    }

    fn running(&self, function: &FunctionName) -> u32 {
        self.running.get(function).copied().unwrap_or(0)
    }

    fn claimed(&self) -> u32 {
        self.claims.values().map(|claim| claim.size()).sum()
    }

    /// Sets a function's claim and its number of running invocations, and updates the sum.
    fn set(&mut self, function: &FunctionName, claim: Claim, running: u32) {
        self.shared -= self.claim(function).shared(self.running(function));
        self.shared += claim.shared(running);
        // Empty entries are removed: the function may have been deleted.
        if claim == Claim::default() {
            self.claims.remove(function);
        } else {
            self.claims.insert(function.clone(), claim);
        }
        if running == 0 {
            self.running.remove(function);
        } else {
            self.running.insert(function.clone(), running);
        }
    }
}

/// The account's concurrency.
#[derive(Debug)]
pub(crate) struct Concurrency {
    limit: u32,
    ledger: Mutex<Ledger>,
}

impl Concurrency {
    pub(crate) fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self {
            limit,
            ledger: Mutex::default(),
        })
    }

    /// Admits an invocation of a function, unless a limit is reached.
    pub(super) fn admit(self: &Arc<Self>, function: &FunctionName) -> Result<Slot, Limit> {
        let mut ledger = self.ledger();
        let (claim, running) = (ledger.claim(function), ledger.running(function));
        match claim.reserved {
            Some(reserved) if running >= reserved => return Err(Limit::Reserved),
            Some(_) => {}
            None => {
                let more = claim.shared(running + 1) - claim.shared(running);
                if ledger.shared + more > self.limit.saturating_sub(ledger.claimed()) {
                    return Err(Limit::Account);
                }
            }
        }
        ledger.set(function, claim, running + 1);
        Ok(Slot {
            concurrency: self.clone(),
            function: function.clone(),
        })
    }

    /// Sets a function's claim. Running invocations are not affected.
    pub(crate) fn set_claim(&self, function: &FunctionName, claim: Claim) {
        let mut ledger = self.ledger();
        let running = ledger.running(function);
        ledger.set(function, claim, running);
    }

    /// The account's limit.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// The unreserved concurrency.
    pub(crate) fn unreserved(&self) -> u32 {
        self.limit.saturating_sub(self.ledger().claimed())
    }

    /// The unreserved concurrency if a function had this claim.
    pub(crate) fn unreserved_with(&self, function: &FunctionName, claim: Claim) -> i64 {
        let ledger = self.ledger();
        let others = ledger.claimed() - ledger.claim(function).size();
        i64::from(self.limit) - i64::from(others) - i64::from(claim.size())
    }

    fn release(&self, function: &FunctionName) {
        let mut ledger = self.ledger();
        let (claim, running) = (ledger.claim(function), ledger.running(function));
        ledger.set(function, claim, running.saturating_sub(1));
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

/// One admitted invocation. Dropping it releases its share of the concurrency.
#[derive(Debug)]
pub(crate) struct Slot {
    concurrency: Arc<Concurrency>,
    function: FunctionName,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.concurrency.release(&self.function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> FunctionName {
        FunctionName::parse(name).unwrap()
    }

    fn reserved(count: u32) -> Claim {
        Claim {
            reserved: Some(count),
            provisioned: 0,
        }
    }

    fn fill(concurrency: &Arc<Concurrency>, function: &FunctionName) -> (Vec<Slot>, Limit) {
        let mut slots = Vec::new();
        loop {
            match concurrency.admit(function) {
                Ok(slot) => slots.push(slot),
                Err(limit) => return (slots, limit),
            }
        }
    }

    #[test]
    fn reserved_concurrency_is_a_limit_and_a_guarantee() {
        let account = Concurrency::new(10);
        let (f, g) = (name("f"), name("g"));
        account.set_claim(&f, reserved(3));
        let (of_g, limit) = fill(&account, &g);
        assert_eq!((of_g.len(), limit), (7, Limit::Account));
        let (of_f, limit) = fill(&account, &f);
        assert_eq!((of_f.len(), limit), (3, Limit::Reserved));
        drop(of_g);
        assert_eq!(account.admit(&f).unwrap_err(), Limit::Reserved);
        drop(of_f);
        account.admit(&f).unwrap();
    }

    #[test]
    fn nothing_runs_of_a_function_whose_reserved_concurrency_is_zero() {
        let account = Concurrency::new(10);
        account.set_claim(&name("f"), reserved(0));
        assert_eq!(account.admit(&name("f")).unwrap_err(), Limit::Reserved);
        account.set_claim(&name("f"), Claim::default());
        account.admit(&name("f")).unwrap();
    }

    #[test]
    fn a_claim_that_changes_under_running_invocations_loses_no_count() {
        let account = Concurrency::new(10);
        let (f, g) = (name("f"), name("g"));
        let (slots, _) = fill(&account, &f);
        account.set_claim(&f, reserved(4));
        assert_eq!(account.admit(&f).unwrap_err(), Limit::Reserved);
        assert_eq!(fill(&account, &g).0.len(), 6);
        account.set_claim(&f, Claim::default());
        assert_eq!(account.admit(&g).unwrap_err(), Limit::Account);
        drop(slots);
        assert_eq!(fill(&account, &g).0.len(), 10);
    }

    #[test]
    fn provisioned_concurrency_is_a_guarantee_and_no_limit() {
        let account = Concurrency::new(10);
        let (f, g) = (name("f"), name("g"));
        let claim = Claim {
            reserved: None,
            provisioned: 2,
        };
        account.set_claim(&f, claim);
        let (of_g, _) = fill(&account, &g);
        assert_eq!(of_g.len(), 8);
        assert_eq!(fill(&account, &f).0.len(), 2);
        drop(of_g);
        assert_eq!(fill(&account, &f).0.len(), 10);
        assert_eq!(account.unreserved(), 8);
        assert_eq!(account.unreserved_with(&g, reserved(9)), -1);
        assert_eq!(account.unreserved_with(&f, reserved(9)), 1);
    }
}
