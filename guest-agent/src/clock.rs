//! The guest's wall clock, which stops while a microVM is paused or is a snapshot.
//!
//! A message from the host carries the time at which it was sent. That is enough to see that the clock
//! is wrong, but not enough to set it: tens of milliseconds may pass between a restore and the moment at
//! which the agent reads the message. So the agent reads the time to set from the host, at a port of the
//! microVM.

use std::time::Duration;

use hearth_protocol::guest::{CLOCK_PORT, CLOCK_PORTS};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Maximum time that the clock may be behind a message; otherwise the agent steps it. The host's time
/// was right when the message was sent, so a clock behind it is certainly wrong.
const MAX_BEHIND: Duration = Duration::from_millis(5);

/// Maximum time that the clock may be ahead of a message. A correct clock is ahead by the time that the
/// message took.
const MAX_AHEAD: Duration = Duration::from_millis(250);

/// Maximum time that the port may be ahead of the message; otherwise the agent uses the message's time.
/// It is more than any guest takes to read a message, and less than any error of a host's clock.
const MAX_ON_ITS_WAY: Duration = Duration::from_secs(120);

/// The host's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HostClock {
    /// Read at its port.
    Port,
    /// Known from messages only.
    Messages,
}

impl HostClock {
    /// Asks the guest kernel for access to the port, which only the microVM's first process gets.
    /// Outside a microVM the port is another device's, or none's.
    pub(crate) fn open() -> Self {
        // SAFETY: ioperm only changes which ports this process may use.
        if unsafe { libc::ioperm(libc::c_ulong::from(CLOCK_PORT), CLOCK_PORTS, 1) } == 0 {
            Self::Port
        } else {
            Self::Messages
        }
    }

    /// Sets the wall clock after a restore. `sent` is when the host sent its message, in nanoseconds since
    /// the epoch.
    pub(crate) fn set(self, sent: u64) -> Result<(), Errno> {
        match self {
            Self::Port => step(plausible(
                Duration::from_nanos(read()),
                Duration::from_nanos(sent),
            )),
            Self::Messages => self.follow(sent),
        }
    }

    /// Sets the wall clock by the host's, if the host has the port.
    pub(crate) fn correct(self) -> Result<(), Errno> {
        match self {
            Self::Port => step(Duration::from_nanos(read())),
            Self::Messages => Ok(()),
        }
    }

    /// Steps the clock if it is further from `sent` than it may be. A correct clock costs no system call,
    /// because it is read through the vDSO.
    pub(crate) fn follow(self, sent: u64) -> Result<(), Errno> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?);
        match (is_off(now, Duration::from_nanos(sent)), self) {
            (false, _) => Ok(()),
            (true, Self::Port) => self.set(sent),
            (true, Self::Messages) => step(Duration::from_nanos(sent)),
        }
    }
}

fn step(time: Duration) -> Result<(), Errno> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(time))
}

/// `read`, unless it cannot be the time. A port without a clock reads as all ones.
fn plausible(read: Duration, sent: Duration) -> Duration {
    if (sent..sent + MAX_ON_ITS_WAY).contains(&read) {
        read
    } else {
        sent
    }
}

fn read() -> u64 {
    let half = |port: u16| {
        let value: u32;
        // SAFETY: ioperm has succeeded for these ports, or there would be no `Port`; reading one
        // touches no memory.
        unsafe {
            std::arch::asm!(
                "in eax, dx",
                in("dx") port,
                out("eax") value,
                options(nomem, nostack, preserves_flags)
            );
        }
        u64::from(value)
    };
    // The low half first: reading it makes the host take the time.
    let low = half(CLOCK_PORT);
    low | half(CLOCK_PORT + 4) << 32
}

fn is_off(now: Duration, host: Duration) -> bool {
    now + MAX_BEHIND < host || now > host + MAX_AHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_left_alone_when_it_may_be_right() {
        let host = Duration::from_secs(1_000);
        for (millis, off) in [
            (-10_000, true),
            (-6, true),
            (-4, false),
            (0, false),
            (50, false),
            (300, true),
        ] {
            let distance = Duration::from_millis(i64::unsigned_abs(millis));
            let now = if millis < 0 {
                host - distance
            } else {
                host + distance
            };
            assert_eq!(is_off(now, host), off, "{millis} ms");
        }
    }

    #[test]
    fn a_port_without_a_plausible_time_is_ignored() {
        let sent = Duration::from_secs(1_000);
        let later = sent + Duration::from_millis(30);
        assert_eq!(plausible(later, sent), later);
        for nonsense in [0, 999_999_999_999, u64::MAX] {
            assert_eq!(plausible(Duration::from_nanos(nonsense), sent), sent);
        }
    }
}
