//! The I/O ports: the early console, the keyboard controller's reset line, the port that ends the
//! microVM, and the clock. The vCPU's thread owns them; nothing here blocks.

use std::fmt;
use std::time::Instant;

use hearth_protocol::guest::{CLOCK_PORT, SHUTDOWN_PORT, SHUTDOWN_VALUE};
use hearth_protocol::sandbox::ExitReason;

use super::serial::{self, Serial};
use crate::host::realtime_ns;

/// Keyboard controller, data.
const I8042_DATA: u16 = 0x60;
/// Keyboard controller, command (write) and status (read).
const I8042_COMMAND: u16 = 0x64;
/// Command: pulse the output lines given by the low bits that are zero; bit 0 is reset.
const I8042_PULSE: u8 = 0xf0;
/// Output line 0, the CPU's reset.
const I8042_RESET_LINE: u8 = 0x01;

/// The port of the clock's high half.
const CLOCK_HIGH: u16 = CLOCK_PORT + 4;

/// The value that a port without a device returns.
const FLOATING: u8 = 0xff;

/// All ports of a microVM, with one serial line.
pub struct PioBus<S> {
    serial: Serial<S>,
    /// The time at the last read of its low half, so that the high half belongs to the same time.
    clock: u64,
}

impl<S: FnMut(&str)> PioBus<S> {
    /// Creates the bus; `sink` gets the lines of the serial console.
    pub fn new(sink: S) -> Self {
        Self {
            serial: Serial::new(sink),
            clock: 0,
        }
    }

    /// An `in` from `port`: fills `data`.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(FLOATING);
        if let (CLOCK_PORT | CLOCK_HIGH, Ok(data)) = (port, <&mut [u8; 4]>::try_from(&mut *data)) {
            *data = self.read_clock(port == CLOCK_HIGH);
            return;
        }
        let value = match port {
            // Status zero: no data to read, and the input buffer is empty. A driver waits for the
            // latter before it resets through this controller.
            I8042_COMMAND | I8042_DATA => 0,
            _ => match serial_offset(port) {
                Some(offset) => self.serial.read(offset),
                None => return,
            },
        };
        if let Some(first) = data.first_mut() {
            *first = value;
        }
    }

    /// An `out` to `port`. Returns a reason if the guest has ended itself by it. All ports are one
    /// byte wide: of a wider access, the lowest byte counts.
    pub fn write(&mut self, port: u16, data: &[u8], now: Instant) -> Option<ExitReason> {
        let &value = data.first()?;
        match port {
            I8042_COMMAND
                if value & I8042_PULSE == I8042_PULSE && value & I8042_RESET_LINE == 0 =>
            {
                Some(ExitReason::GuestReset)
            }
            SHUTDOWN_PORT if value == SHUTDOWN_VALUE => Some(ExitReason::GuestShutdown),
            _ => {
                if let Some(offset) = serial_offset(port) {
                    self.serial.write(offset, value, now);
                }
                None
            }
        }
    }

    fn read_clock(&mut self, high: bool) -> [u8; 4] {
        if !high {
            self.clock = realtime_ns();
        }
        let [a, b, c, d, e, f, g, h] = self.clock.to_le_bytes();
        if high { [e, f, g, h] } else { [a, b, c, d] }
    }

    /// Passes on a line of the console that has no newline yet. Called at the microVM's end.
    pub fn flush(&mut self) {
        self.serial.flush();
    }
}

impl<S> fmt::Debug for PioBus<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PioBus")
            .field("serial", &self.serial)
            .finish()
    }
}

fn serial_offset(port: u16) -> Option<u16> {
    port.checked_sub(serial::BASE)
        .filter(|&offset| offset < serial::PORTS)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn bus() -> PioBus<impl FnMut(&str)> {
        PioBus::new(|_: &str| {})
    }

    #[test]
    fn unknown_ports_read_all_ones_and_swallow_writes() {
        let mut bus = bus();
        for port in (0..=u16::MAX).filter(|&p| serial_offset(p).is_none()) {
            if matches!(port, I8042_COMMAND | I8042_DATA | CLOCK_PORT | CLOCK_HIGH) {
                continue;
            }
            for width in [1, 2, 4] {
                let mut data = vec![0; width];
                bus.read(port, &mut data);
                assert!(data.iter().all(|&byte| byte == 0xff), "port {port:#x}");
            }
            assert_eq!(bus.write(port, &[0; 4], Instant::now()), None);
        }
    }

    #[test]
    fn the_keyboard_controllers_reset_ends_the_microvm() {
        let mut bus = bus();
        let now = Instant::now();
        assert_eq!(bus.write(0x64, &[0xfe], now), Some(ExitReason::GuestReset));
        assert_eq!(bus.write(0x64, &[0xff], now), None);
        assert_eq!(bus.write(0x64, &[0xaa], now), None);
        assert_eq!(bus.write(0x60, &[0xfe], now), None);
    }

    #[test]
    fn a_kernel_that_waits_for_the_keyboard_controller_does_not_wait_long() {
        let mut status = [0xff];
        bus().read(0x64, &mut status);
        assert_eq!(status[0] & 0x03, 0, "no output to read, input buffer empty");
    }

    #[test]
    fn only_the_agreed_byte_at_the_shutdown_port_ends_the_microvm() {
        let mut bus = bus();
        let now = Instant::now();
        for value in 0..=u8::MAX {
            let expected = (value == SHUTDOWN_VALUE).then_some(ExitReason::GuestShutdown);
            assert_eq!(bus.write(SHUTDOWN_PORT, &[value], now), expected);
        }
        assert_eq!(bus.write(SHUTDOWN_PORT, &[], now), None);
    }

    #[test]
    fn the_clock_tells_the_hosts_time_in_halves_that_belong_together() {
        let mut bus = bus();
        let nanos = || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            u64::try_from(now.unwrap().as_nanos()).unwrap()
        };
        let (mut low, mut high) = ([0; 4], [0; 4]);
        let before = nanos();
        bus.read(CLOCK_PORT, &mut low);
        let after = nanos();
        for _ in 0..2 {
            bus.read(CLOCK_HIGH, &mut high);
            let time = u64::from_le_bytes([low, high].concat().try_into().unwrap());
            assert!((before..=after).contains(&time), "{before} {time} {after}");
        }
        for width in [1, 2] {
            let mut data = vec![0; width];
            bus.read(CLOCK_PORT, &mut data);
            assert!(data.iter().all(|&byte| byte == 0xff), "{width} bytes");
        }
    }

    #[test]
    fn the_console_is_at_the_first_serial_port() {
        let lines = std::cell::RefCell::new(Vec::new());
        let mut bus = PioBus::new(|line: &str| lines.borrow_mut().push(line.to_owned()));
        for byte in b"ok\n" {
            assert_eq!(bus.write(0x3f8, &[*byte], Instant::now()), None);
        }
        let mut status = [0];
        bus.read(0x3fd, &mut status);
        assert_eq!(status, [0x60]);
        drop(bus);
        assert_eq!(lines.into_inner(), ["ok"]);
    }
}
