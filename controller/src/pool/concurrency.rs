//! How many invocations may run at once: the account's limit, and what of it functions have for
//! themselves.
//!
//! A function with reserved concurrency runs up to that many, and nobody else gets them. Provisioned
//! concurrency of the others is theirs as well, but they may run more. What is left is shared by
//! all. An invocation counts from its acceptance to its answer, whichever version it runs on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::function::FunctionName;
use crate::locks::lock;

/// What a function has for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    /// All that it may run.
    pub(crate) reserved: Option<u32>,
    /// Instances that are kept ready for it.
    pub(crate) provisioned: u32,
}

impl Claim {
    /// What of the account's limit is not for others.
    fn size(self) -> u32 {
        self.reserved.unwrap_or(self.provisioned)
    }

    /// What `running` invocations take of that which is for all.
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
    /// Sum of what is taken of that which is for all.
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

    /// Replaces what a function has and runs, and keeps the sum right.
    fn set(&mut self, function: &FunctionName, claim: Claim, running: u32) {
        self.shared -= self.claim(function).shared(self.running(function));
        self.shared += claim.shared(running);
        // Nothing is kept of functions that have nothing: they may be gone.
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

    /// Lets one more invocation of a function run, unless a limit is reached.
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

    /// Says what a function has for itself from now on. What runs, runs on.
    pub(crate) fn set_claim(&self, function: &FunctionName, claim: Claim) {
        let mut ledger = self.ledger();
        let running = ledger.running(function);
        ledger.set(function, claim, running);
    }

    /// The account's limit.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// What is left for all.
    pub(crate) fn unreserved(&self) -> u32 {
        self.limit.saturating_sub(self.ledger().claimed())
    }

    /// What would be left for all if a function had this.
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

/// The right of one invocation to run; ends when it is dropped.
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
    fn what_is_reserved_is_a_limit_and_a_guarantee() {
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
