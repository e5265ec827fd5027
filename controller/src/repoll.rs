//! A future that is polled again at once if it has woken itself.
//!
//! hyper passes a request's body to its handler through a channel, and both ends of that channel belong
//! to the connection's task. So a handler that asks for the body wakes the task in which it runs itself.
//! tokio then sees a runnable task on a busy thread, and wakes a second thread to run it. That thread
//! finds nothing to do, or moves the connection to another CPU, and costs more than the handler does.
//! Polled again at once, the task gets its body and sleeps.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Maximum number of polls in a row, after which other tasks may run.
const ROUNDS: usize = 4;

const IDLE: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// Polls a future again if it has woken itself.
#[derive(Debug)]
pub(crate) struct Repoll<F> {
    future: Pin<Box<F>>,
    wakes: Arc<Wakes>,
    waker: Waker,
}

/// The waker of the future: wakes the task only if the future is not being polled.
#[derive(Debug)]
struct Wakes {
    state: AtomicU8,
    task: AtomicWaker,
}

impl<F> Repoll<F> {
    pub(crate) fn new(future: F) -> Self {
        let wakes = Arc::new(Wakes {
            state: AtomicU8::new(IDLE),
            task: AtomicWaker::new(),
        });
        Self {
            future: Box::pin(future),
            waker: wakes.clone().into(),
            wakes,
        }
    }
}

impl<F: Future> Future for Repoll<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            future,
            wakes,
            waker,
        } = &mut *self;
        wakes.task.register(context.waker());
        for _ in 0..ROUNDS {
            wakes.state.store(POLLED, Ordering::SeqCst);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            if wakes.state.swap(IDLE, Ordering::SeqCst) != WOKEN {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let polled = self
            .state
            .compare_exchange(POLLED, WOKEN, Ordering::SeqCst, Ordering::SeqCst);
        // In the other states, `poll` sees the new state after the future has returned.
        if polled == Err(IDLE) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Debug, Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Wakes itself in each of its first `rounds` polls, and then stores its waker.
    struct Eager {
        rounds: usize,
        given: Option<Waker>,
    }

    impl Future for Eager {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            match self.rounds {
                0 if self.given.is_some() => return Poll::Ready(()),
                0 => self.given = Some(context.waker().clone()),
                _ => {
                    self.rounds -= 1;
                    context.waker().wake_by_ref();
                    context.waker().wake_by_ref();
                }
            }
            Poll::Pending
        }
    }

    fn eager(rounds: usize) -> (Repoll<Eager>, Arc<Count>) {
        let given = None;
        (Repoll::new(Eager { rounds, given }), Arc::default())
    }

    fn polled(future: &mut Repoll<Eager>, count: &Arc<Count>) -> (bool, usize) {
        let waker = count.clone().into();
        let ready = Pin::new(future)
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        (ready, count.0.load(Ordering::SeqCst))
    }

    #[test]
    fn a_future_that_wakes_itself_does_not_wake_its_task() {
        let (mut future, count) = eager(ROUNDS - 1);
        assert_eq!(polled(&mut future, &count), (false, 0));
        let given = future.future.given.clone().unwrap();
        given.wake_by_ref();
        given.wake();
        assert!(count.0.load(Ordering::SeqCst) > 0);
        assert!(polled(&mut future, &count).0);
    }

    #[test]
    fn a_future_that_keeps_waking_itself_lets_other_tasks_run() {
        let (mut future, count) = eager(2 * ROUNDS);
        assert_eq!(polled(&mut future, &count), (false, 1));
        assert_eq!(polled(&mut future, &count), (false, 2));
        assert_eq!(polled(&mut future, &count), (false, 2));
        assert!(polled(&mut future, &count).0);
    }
}
