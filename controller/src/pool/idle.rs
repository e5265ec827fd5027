//! What an instance does between two invocations: it waits until the runtime has asked for its next event,
//! has the microVM paused, and waits for an order.

use std::ops::ControlFlow;
use std::time::Instant;

use hearth_protocol::agent::AgentMessage;
use hearth_protocol::sandbox::{Command, Freeze};
use tokio::sync::oneshot;

use super::entry::{Order, Parked};
use super::job::Job;
use super::lifecycle::Instance;
use super::readiness::Readiness;
use super::timeouts::{COMMAND_LIMIT, FREEZE_WITHIN, SETTLE_LIMIT};
use crate::instance::{Deadline, MailboxWord, MicroVm, Step, VmError, VmEvent, outcome};
use crate::logs::Text;

impl Instance {
    /// Waits until the runtime has asked for its next event. Returns where it waits.
    /// `budgeted`: whether the last invocation had a CPU budget.
    pub(super) async fn settle(
        &self,
        vm: &mut MicroVm,
        deadline: Instant,
        budgeted: bool,
    ) -> ControlFlow<(), Readiness> {
        let now = Instant::now();
        let limit = deadline.saturating_duration_since(now).max(SETTLE_LIMIT);
        let deadline = Deadline::since(now, limit, "the runtime's request for its next event");
        let settled = vm.wait_for(deadline, |_, event| {
            Ok(match event {
                VmEvent::Agent(AgentMessage::Ready(ready)) => {
                    self.extensions_took(ready.extensions_us);
                    Step::Done(Readiness::Running { budgeted })
                }
                VmEvent::Mailbox(MailboxWord::Waits) => Step::Done(Readiness::AtMailbox),
                VmEvent::Agent(AgentMessage::Log(of, text)) => {
                    self.log(Text::of_guest(&of, text));
                    Step::Wait
                }
                VmEvent::Reply(_) => Step::Wait,
                other => Step::Unexpected(other),
            })
        });
        let settled = tokio::select! {
            biased;
            () = self.pool.stop.cancelled() => return ControlFlow::Break(()),
            settled = settled => settled,
        };
        match settled {
            Ok(settled) => ControlFlow::Continue(settled),
            Err(why) => {
                self.lost(&why.to_string());
                ControlFlow::Break(())
            }
        }
    }

    /// The next invocation, and how the microVM is then; `None` if the instance must end.
    pub(super) async fn next(
        &self,
        vm: &mut MicroVm,
        ready: Readiness,
    ) -> Option<(Job, Readiness)> {
        let waiting = self.pool.state().next(self.id);
        let Readiness::Running { budgeted } = ready else {
            return match waiting {
                Some(job) => Some((job, ready)),
                None => self.park(vm, ready).await,
            };
        };
        if let Some(job) = waiting {
            // Only a resume sets or removes a CPU budget. Without one, a pause would be wasted time.
            if !budgeted && job.invocation.limits.cpu.is_none() {
                return Some((job, ready));
            }
            return match pause(vm).await {
                Ok(()) => Some((job, Readiness::Paused)),
                Err(why) => {
                    self.lost(&why.to_string());
                    self.again(job, &why.to_string());
                    None
                }
            };
        }
        // Does not wait for the pause, because an invocation may come meanwhile.
        if let Err(why) = vm.submit(Command::Freeze(Freeze::within(FREEZE_WITHIN))) {
            self.lost(&why.to_string());
            return None;
        }
        self.park(vm, Readiness::Paused).await
    }

    /// Is idle until there is an invocation; `None` if the instance must end.
    async fn park(&self, vm: &mut MicroVm, mut ready: Readiness) -> Option<(Job, Readiness)> {
        loop {
            let parked = self.pool.state().park(self.id, Instant::now());
            let orders = match parked {
                Parked::Run(job) => return Some((job, ready)),
                Parked::End => {
                    self.shut_down(vm, &ready, "spindown").await;
                    return None;
                }
                Parked::Wait(orders) => orders,
            };
            self.pool.notify_parked();
            match self.idle(vm, orders).await? {
                Order::Run(job) => return Some((job, ready)),
                Order::End => {
                    self.shut_down(vm, &ready, "spindown").await;
                    return None;
                }
                Order::Ping { count, reply } => {
                    if matches!(ready, Readiness::AtMailbox) {
                        self.recall(vm).await?;
                        ready = Readiness::Paused;
                    }
                    let pinged = self.ping(vm, count).await;
                    let failed = pinged.as_ref().err().map(ToString::to_string);
                    // The caller may have been dropped.
                    let _ = reply.send(pinged.map_err(|error| error.to_string()));
                    if let Some(why) = failed {
                        self.lost(&why);
                        return None;
                    }
                }
            }
        }
    }

    /// Makes a runtime that waits at the mailbox wait at its agent, and pauses the microVM.
    pub(super) async fn recall(&self, vm: &mut MicroVm) -> Option<()> {
        if let Err(why) = vm.release() {
            self.lost(&why.to_string());
            return None;
        }
        match self.settle(vm, Instant::now(), false).await {
            ControlFlow::Continue(Readiness::Running { .. }) => {}
            ControlFlow::Continue(_) => {
                self.lost("the runtime waits at the mailbox although it was sent to its agent");
                return None;
            }
            ControlFlow::Break(()) => return None,
        }
        match pause(vm).await {
            Ok(()) => Some(()),
            Err(why) => {
                self.lost(&why.to_string());
                None
            }
        }
    }

    /// Waits for an order. Ends the instance if the microVM fails or sends an unexpected message.
    async fn idle(&self, vm: &mut MicroVm, mut orders: oneshot::Receiver<Order>) -> Option<Order> {
        let why = loop {
            tokio::select! {
                biased;
                // Checked first: the pool has already removed this instance, so a guest that floods
                // messages must not delay its end.
                order = &mut orders => return order.ok(),
                event = vm.next() => match event {
                    Ok(VmEvent::Agent(AgentMessage::Log(of, text))) => {
                        self.log(Text::of_guest(&of, text));
                    }
                    Ok(VmEvent::Reply(reply)) => match outcome(reply) {
                        Ok(_) => {}
                        Err(error) => break error.to_string(),
                    },
                    // The CPU budget of the last invocation. The microVM is paused, as it should be.
                    Ok(VmEvent::CpuBudgetExhausted) => {}
                    Ok(other) => break format!("the guest sent {other} while it was idle"),
                    Err(error) => break error.to_string(),
                },
            }
        };
        self.lost(&why);
        self.pool.gone(self.id);
        // An order that was sent at the same moment must not be lost with the instance.
        orders.close();
        if let Ok(Order::Run(job)) = orders.try_recv() {
            self.again(job, &why);
        }
        None
    }
}

async fn pause(vm: &mut MicroVm) -> Result<(), VmError> {
    let deadline = Deadline::after(COMMAND_LIMIT, "a pause");
    vm.command(Command::Pause, deadline).await.map(drop)
}
