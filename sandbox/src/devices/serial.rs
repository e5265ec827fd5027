//! The transmit half of a 16550 UART. That is enough for a kernel's early console, which polls the
//! line status and writes bytes.
//!
//! There is no receiver and no interrupt, and transmitting takes no time. So there is no state that
//! a snapshot could miss: in other VMMs, a restored transmitter has waited for ever for an
//! interrupt. The registers that a driver writes are only stored for it to read back.
//!
//! Output goes to a sink line by line, within a budget. A guest that floods its console loses
//! bytes; these are counted and reported, and cost the host nothing else.

use std::fmt;
use std::time::Instant;

use crate::log::TokenBucket;

/// I/O ports of the first serial line.
pub const BASE: u16 = 0x3f8;
/// Number of ports.
pub const PORTS: u16 = 8;

/// Maximum length of a line; a longer one is split.
pub const LINE_MAX: usize = 512;
/// Bytes of output that a guest may write at once, which is enough for a verbose boot.
pub const BURST: u32 = 64 * 1024;
/// Bytes of output per second that it may write after that.
pub const PER_SECOND: u32 = 16 * 1024;
/// What each line costs besides its bytes, because a line of the log has a prefix and is a write of
/// its own.
pub const LINE: u32 = 48;

/// Register offsets from the base.
mod register {
    /// Transmit/receive buffer, or divisor low.
    pub(super) const DATA: u16 = 0;
    /// Interrupt enable, or divisor high.
    pub(super) const INTERRUPT_ENABLE: u16 = 1;
    /// Interrupt identification (read).
    pub(super) const INTERRUPT_ID: u16 = 2;
    pub(super) const LINE_CONTROL: u16 = 3;
    pub(super) const MODEM_CONTROL: u16 = 4;
    pub(super) const LINE_STATUS: u16 = 5;
    pub(super) const SCRATCH: u16 = 7;
}

/// Line control: offsets 0 and 1 are the divisor.
const DIVISOR_LATCH: u8 = 0x80;
/// Interrupt identification: none pending.
const NO_INTERRUPT: u8 = 1;
/// Line status: holding register and transmitter empty.
const TRANSMITTER_EMPTY: u8 = 0x60;
/// Modem control: the transmitter is connected to the receiver. A driver uses it to test for a
/// UART.
const LOOPBACK: u8 = 0x10;

/// The serial line. `sink` gets each line without its newline.
pub struct Serial<S> {
    sink: S,
    line: Vec<u8>,
    bucket: TokenBucket,
    dropped: u64,
    interrupt_enable: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: [u8; 2],
}

impl<S: FnMut(&str)> Serial<S> {
    /// A serial line that has not been used yet.
    pub fn new(sink: S) -> Self {
        Self {
            sink,
            line: Vec::new(),
            bucket: TokenBucket::new(BURST, PER_SECOND),
            dropped: 0,
            interrupt_enable: 0,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            divisor: [0; 2],
        }
    }

    /// A read of the register at `offset` from the base.
    pub fn read(&self, offset: u16) -> u8 {
        let divisor = self.line_control & DIVISOR_LATCH != 0;
        match offset {
            register::DATA if divisor => self.divisor[0],
            register::INTERRUPT_ENABLE if divisor => self.divisor[1],
            register::INTERRUPT_ENABLE => self.interrupt_enable,
            register::INTERRUPT_ID => NO_INTERRUPT,
            register::LINE_CONTROL => self.line_control,
            register::MODEM_CONTROL => self.modem_control,
            register::LINE_STATUS => TRANSMITTER_EMPTY,
            register::SCRATCH => self.scratch,
            // Nothing is ever received, and there is no modem.
            _ => 0,
        }
    }

    /// A write to the register at `offset` from the base.
    pub fn write(&mut self, offset: u16, value: u8, now: Instant) {
        let divisor = self.line_control & DIVISOR_LATCH != 0;
        match offset {
            register::DATA if divisor => self.divisor[0] = value,
            register::INTERRUPT_ENABLE if divisor => self.divisor[1] = value,
            register::DATA if self.modem_control & LOOPBACK == 0 => self.transmit(value, now),
            register::INTERRUPT_ENABLE => self.interrupt_enable = value & 0x0f,
            register::LINE_CONTROL => self.line_control = value,
            register::MODEM_CONTROL => self.modem_control = value & 0x1f,
            register::SCRATCH => self.scratch = value,
            _ => {}
        }
    }

    /// Passes on a line that has no newline yet, and reports dropped bytes. Called at the microVM's
    /// end.
    pub fn flush(&mut self) {
        self.end_line();
        self.report_dropped();
    }

    fn transmit(&mut self, byte: u8, now: Instant) {
        let cost = if byte == b'\n' { 1 + LINE } else { 1 };
        if !self.bucket.take(now, cost) {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        match byte {
            b'\n' => {
                self.end_line();
                self.report_dropped();
            }
            b'\r' => {}
            _ => {
                self.line.push(byte);
                if self.line.len() >= LINE_MAX {
                    self.end_line();
                }
            }
        }
    }

    fn report_dropped(&mut self) {
        if self.dropped > 0 {
            let note = format!("[{} bytes of console output dropped]", self.dropped);
            self.dropped = 0;
            (self.sink)(&note);
        }
    }

    /// The guest's bytes go to the host's log. Control characters are replaced, so that a guest can
    /// neither move a cursor nor forge a line of the log.
    fn end_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let text: String = String::from_utf8_lossy(&self.line)
            .chars()
            .map(|c| match c {
                '\t' => ' ',
                c if c.is_control() => char::REPLACEMENT_CHARACTER,
                c => c,
            })
            .collect();
        self.line.clear();
        (self.sink)(&text);
    }
}

impl<S> fmt::Debug for Serial<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial")
            .field("line", &self.line.len())
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::*;

    fn write_all<S: FnMut(&str)>(serial: &mut Serial<S>, bytes: &[u8], now: Instant) {
        for &byte in bytes {
            assert_ne!(serial.read(register::LINE_STATUS) & 0x20, 0);
            serial.write(register::DATA, byte, now);
        }
    }

    #[test]
    fn lines_reach_the_sink_whole_and_without_their_end() {
        let lines = RefCell::new(Vec::new());
        let mut serial = Serial::new(|line: &str| lines.borrow_mut().push(line.to_owned()));
        write_all(&mut serial, b"hello\r\n\r\nworld", Instant::now());
        assert_eq!(*lines.borrow(), ["hello"]);
        serial.flush();
        assert_eq!(*lines.borrow(), ["hello", "world"]);
    }

    #[test]
    fn a_flood_is_cut_to_the_budget_counted_and_told() {
        let lines = RefCell::new(Vec::new());
        let mut serial = Serial::new(|line: &str| lines.borrow_mut().push(line.to_owned()));
        let now = Instant::now();
        for _ in 0..100_000 {
            write_all(&mut serial, b"flood\n", now);
        }
        let sent = |lines: &[String]| -> usize {
            lines.iter().map(|line| line.len() + LINE as usize).sum()
        };
        assert!(sent(&lines.borrow()) <= BURST as usize);
        let whole = lines.borrow().len();
        write_all(&mut serial, b"\nlast\n", now + Duration::from_secs(1));
        // The budget went on the lines' ends, and byte by byte.
        let dropped = 600_000 - (BURST - LINE * u32::try_from(whole).unwrap());
        let note = format!("[{dropped} bytes of console output dropped]");
        assert!(
            lines.borrow().contains(&note),
            "{:?}",
            lines.borrow().last()
        );
        assert_eq!(lines.borrow().last().unwrap(), "last");
    }

    /// Each newline that got through reported the bytes that had not: 16,000 lines a second.
    #[test]
    fn a_flood_of_line_ends_is_cut_as_well() {
        let lines = RefCell::new(Vec::new());
        let mut serial = Serial::new(|line: &str| lines.borrow_mut().push(line.len()));
        let start = Instant::now();
        for step in 0..1_000_000 {
            write_all(&mut serial, b"\n", start + Duration::from_micros(10 * step));
        }
        let sent = lines.borrow().len() + lines.borrow().iter().sum::<usize>();
        assert!(sent <= (BURST + 10 * PER_SECOND) as usize, "{sent}");
        assert!(lines.borrow().len() <= (10 * PER_SECOND / LINE) as usize);
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let lines = RefCell::new(Vec::new());
        let mut serial = Serial::new(|line: &str| lines.borrow_mut().push(line.len()));
        write_all(&mut serial, &[b'x'; LINE_MAX * 3], Instant::now());
        assert_eq!(*lines.borrow(), [LINE_MAX; 3]);
    }

    #[test]
    fn control_characters_do_not_reach_the_log() {
        let lines = RefCell::new(Vec::new());
        let mut serial = Serial::new(|line: &str| lines.borrow_mut().push(line.to_owned()));
        write_all(&mut serial, b"a\x1b[2Jb\xff\n", Instant::now());
        assert_eq!(*lines.borrow(), ["a\u{fffd}[2Jb\u{fffd}"]);
    }

    #[test]
    fn setting_the_line_speed_transmits_nothing() {
        let mut serial = Serial::new(|_: &str| panic!("nothing was written"));
        let now = Instant::now();
        serial.write(register::LINE_CONTROL, 0x83, now);
        serial.write(register::DATA, 12, now);
        serial.write(register::INTERRUPT_ENABLE, 0, now);
        assert_eq!(serial.read(register::DATA), 12);
        serial.write(register::LINE_CONTROL, 0x03, now);
        serial.flush();
        assert_eq!(serial.read(register::DATA), 0);
    }
}
