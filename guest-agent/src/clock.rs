//! The guest's wall clock, which stands still while a microVM is a snapshot.
//!
//! A message from the host says what time it was when it was sent. That is enough to see that a
//! clock is wrong, and not enough to set it: between a restore and the moment when its message is
//! read tens of milliseconds may pass. The time to set is asked of the host there and then, at a port
//! of the microVM.

use std::time::Duration;

use hearth_protocol::guest::{CLOCK_PORT, CLOCK_PORTS};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// A clock that is this much behind a message is stepped. The host's time was right when the
/// message was sent and has passed since, so a clock behind it is wrong for certain.
const MAX_BEHIND: Duration = Duration::from_millis(5);

/// A clock that is this much ahead is stepped as well. A clock that is right looks ahead by the
/// time that the message was on its way.
const MAX_AHEAD: Duration = Duration::from_millis(250);

/// A time is taken from the port if no more than this has passed since the message was sent: more
/// than any guest takes to read one, and less than any mistake would be.
const MAX_ON_ITS_WAY: Duration = Duration::from_secs(120);

/// The host's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HostClock {
    /// Asked at its port.
    Port,
    /// Known from messages alone.
    Messages,
}

impl HostClock {
    /// Asks the kernel for the port. Only the microVM's first process may: elsewhere there is
    /// something else at that port, or nothing.
    pub(crate) fn open() -> Self {
        // SAFETY: ioperm only changes which ports this process may use.
        if unsafe { libc::ioperm(libc::c_ulong::from(CLOCK_PORT), CLOCK_PORTS, 1) } == 0 {
            Self::Port
        } else {
            Self::Messages
        }
    }

    /// Sets the wall clock after a restore. `sent` is when the host sent word of it, in nanoseconds
    /// since the epoch.
    pub(crate) fn set(self, sent: u64) -> Result<(), Errno> {
        match self {
            Self::Port => step(plausible(
                Duration::from_nanos(read()),
                Duration::from_nanos(sent),
            )),
            Self::Messages => self.follow(sent),
        }
    }

    /// Sets the wall clock by the host's, if that can be asked.
    pub(crate) fn correct(self) -> Result<(), Errno> {
        match self {
            Self::Port => step(Duration::from_nanos(read())),
            Self::Messages => Ok(()),
        }
    }

    /// Steps the clock if it is further from `sent` than it may be. Costs no system call when the
    /// clock is right: it is read through the vDSO.
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

/// A host that has no clock at the port reads as all ones, one that has lost its mind as anything.
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
    // The low half first: that is what takes the time.
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
    fn a_port_that_tells_no_time_is_not_believed() {
        let sent = Duration::from_secs(1_000);
        let later = sent + Duration::from_millis(30);
        assert_eq!(plausible(later, sent), later);
        for nonsense in [0, 999_999_999_999, u64::MAX] {
            assert_eq!(plausible(Duration::from_nanos(nonsense), sent), sent);
        }
    }
}
