//! CPU time of a vCPU's thread: how much it has used, and timers that interrupt the thread.
//!
//! A CPU budget is a POSIX timer on the thread's own CPU clock. It costs nothing while the guest is
//! idle, needs no periodic tick, and counts the host's time, which no guest can forge.

use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, mem, ptr};

use super::kick;

/// A timer that kicks the calling thread.
#[derive(Debug)]
pub(super) struct KickTimer {
    id: libc::timer_t,
}

/// The timers of a vCPU's thread.
#[derive(Debug)]
pub(super) struct Timers {
    /// On the thread's CPU clock: ends a CPU budget.
    pub(super) budget: KickTimer,
    /// On the monotonic clock: for [`super::mailbox_scheduler`].
    pub(super) mailbox: KickTimer,
}

impl Timers {
    /// Disarmed timers for the calling thread.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            budget: KickTimer::new(libc::CLOCK_THREAD_CPUTIME_ID)?,
            mailbox: KickTimer::new(libc::CLOCK_MONOTONIC)?,
        })
    }
}

impl KickTimer {
    fn new(clock: libc::clockid_t) -> io::Result<Self> {
        // SAFETY: sigevent is plain data; all zeroes is a valid value.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = kick::signal();
        // SAFETY: gettid has no preconditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut id = ptr::null_mut();
        // SAFETY: both pointers lead to live locals.
        let status = unsafe { libc::timer_create(clock, &raw mut event, &raw mut id) };
        if status == 0 {
            Ok(Self { id })
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Kicks once after `time` on its clock, and then every millisecond, because a kick that comes
    /// while the thread is outside of `KVM_RUN` has no effect. Zero disarms the timer.
    pub(super) fn arm(&self, time: Duration) -> io::Result<()> {
        let interval = if time.is_zero() {
            Duration::ZERO
        } else {
            Duration::from_millis(1)
        };
        let setting = libc::itimerspec {
            it_interval: timespec(interval),
            it_value: timespec(time),
        };
        // SAFETY: the timer is ours, the setting is a live local, no old setting is asked for.
        let status =
            unsafe { libc::timer_settime(self.id, 0, &raw const setting, ptr::null_mut()) };
        if status == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl Drop for KickTimer {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and is not used again.
        unsafe { libc::timer_delete(self.id) };
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer leads to a live local.
    if unsafe { libc::clock_gettime(clock, &raw mut now) } != 0 {
        return None;
    }
    let seconds = u64::try_from(now.tv_sec).ok()?;
    Some(Duration::new(seconds, u32::try_from(now.tv_nsec).ok()?))
}

/// CPU time of the calling thread.
pub(super) fn own() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a CPU clock")
}

/// CPU time of another thread; `None` if it has ended.
pub(super) fn of<T>(thread: &JoinHandle<T>) -> Option<Duration> {
    if thread.is_finished() {
        return None;
    }
    let mut clock = 0;
    // SAFETY: the handle has not been joined, so the id is valid; the pointer is a live local.
    let status = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) };
    if status == 0 { read(clock) } else { None }
}
