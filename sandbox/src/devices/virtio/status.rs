//! The device status (virtio 1.2, 2.1 and 3.1.1): a table of the transitions that a driver may
//! make. Bits are only added, in one order, and only a reset clears them. Any other transition is
//! refused.

/// The guest has noticed the device.
pub const ACKNOWLEDGE: u8 = 1;
/// The guest knows how to drive it.
pub const DRIVER: u8 = 2;
/// The driver is running.
pub const DRIVER_OK: u8 = 4;
/// The features are negotiated.
pub const FEATURES_OK: u8 = 8;
/// The device has failed. Only the device sets this bit.
pub const DEVICE_NEEDS_RESET: u8 = 0x40;
/// The driver has failed.
pub const FAILED: u8 = 0x80;

/// No driver yet.
pub const INITIAL: u8 = 0;
/// The driver negotiates features.
pub const NEGOTIATING: u8 = ACKNOWLEDGE | DRIVER;
/// The driver sets up the queues.
pub const CONFIGURING: u8 = NEGOTIATING | FEATURES_OK;
/// The driver is running.
pub const RUNNING: u8 = CONFIGURING | DRIVER_OK;

/// What a write to the status register means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Return to the initial state.
    Reset,
    /// Only record the new status.
    Record,
    /// The driver proposes the features that it has written.
    ProposeFeatures,
    /// The driver has finished its set-up.
    Activate,
}

const TRANSITIONS: [(u8, u8, Step); 4] = [
    (INITIAL, ACKNOWLEDGE, Step::Record),
    (ACKNOWLEDGE, NEGOTIATING, Step::Record),
    (NEGOTIATING, CONFIGURING, Step::ProposeFeatures),
    (CONFIGURING, RUNNING, Step::Activate),
];

/// The step that a write of `requested` means when the status is `current`; `None` if it is not
/// allowed.
pub fn step(current: u8, requested: u8) -> Option<Step> {
    if requested == INITIAL {
        return Some(Step::Reset);
    }
    // The driver adds bits to the status that it reads, so it may write back the device's own bit.
    let requested = requested & !DEVICE_NEEDS_RESET | current & DEVICE_NEEDS_RESET;
    if requested == current || requested == current | FAILED {
        return Some(Step::Record);
    }
    TRANSITIONS
        .iter()
        .find(|(from, to, _)| (*from, *to) == (current, requested))
        .map(|(_, _, step)| *step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_way_up_is_allowed() {
        assert_eq!(step(0, 1), Some(Step::Record));
        assert_eq!(step(1, 3), Some(Step::Record));
        assert_eq!(step(3, 0xb), Some(Step::ProposeFeatures));
        assert_eq!(step(0xb, 0xf), Some(Step::Activate));
    }

    #[test]
    fn nothing_else_sets_or_clears_the_drivers_bits() {
        let life = [INITIAL, ACKNOWLEDGE, NEGOTIATING, CONFIGURING, RUNNING];
        for (position, &from) in life.iter().enumerate() {
            for to in 1..=u8::MAX {
                let kept = to & !DEVICE_NEEDS_RESET;
                let upward = life.get(position + 1) == Some(&kept);
                let allowed = upward || kept == from || kept == from | FAILED;
                assert_eq!(step(from, to).is_some(), allowed, "{from:#x} to {to:#x}");
            }
        }
    }

    #[test]
    fn a_second_activation_is_not_one() {
        assert_eq!(step(RUNNING, RUNNING), Some(Step::Record));
    }

    #[test]
    fn a_broken_device_only_fails_or_resets() {
        let broken = CONFIGURING | DEVICE_NEEDS_RESET;
        assert_eq!(step(broken, RUNNING | DEVICE_NEEDS_RESET), None);
        assert_eq!(step(broken, broken | FAILED), Some(Step::Record));
        assert_eq!(step(broken, 0), Some(Step::Reset));
    }
}
