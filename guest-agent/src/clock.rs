//! The guest's wall clock, which stands still while a microVM is a snapshot.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// A clock that is this much behind the host's is stepped. The host's time was right when the
/// frame was sent and has passed since, so a clock behind it is wrong for certain, and stepping
/// can only improve it.
const MAX_BEHIND: Duration = Duration::from_millis(5);

/// A clock that is this much ahead is stepped as well. A clock that is right looks ahead by the
/// time that the frame was on its way: tens of milliseconds when the guest has just been restored
/// on a host with software KVM. Setting a right clock to a frame that is late would make it wrong,
/// so this is far more than that.
const MAX_AHEAD: Duration = Duration::from_millis(250);

/// Steps the clock if it is further from `host`, nanoseconds since the epoch, than it may be.
///
/// Costs no system call when the clock is right: it is read through the vDSO.
pub(crate) fn follow(host_ns: u64) -> Result<(), Errno> {
    let host = Duration::from_nanos(host_ns);
    let now = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?);
    if is_off(now, host) {
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(host))?;
    }
    Ok(())
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
}
