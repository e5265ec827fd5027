//! Hostile inputs 41 to 44: register widths, ports, resets, the serial line, and CPUs that never
//! come to rest or never wake up. (`files.rs` has 45 and 46.)

use hearth_protocol::sandbox::ExitReason;
use hearth_sandbox::devices::virtio::mmio::register;

use crate::assembler::Width;
use crate::attack::{attack, withstand};
use crate::driver::{BUFFERS, DISK, VSOCK, register_of};

#[test]
fn accesses_of_other_widths_and_alignments() {
    withstand(&[
        attack("of registers", "bytes at", |a| {
            for width in [Width::Byte, Width::Word, Width::Quad] {
                for offset in [0, 4, 0x34, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0xfc] {
                    let at = register_of(DISK, offset);
                    a.code.load(width, at);
                    a.code.store(width, at, 0xffff_ffff_ffff_ffff);
                }
            }
            for offset in [1, 2, 3, 0x6e, 0x71] {
                a.code.load(Width::Double, register_of(DISK, offset));
                a.code.store(Width::Double, register_of(DISK, offset), 1);
            }
            a.status_is(DISK, 0, "nothing came of it");
        }),
        attack(
            "of the configuration and past its end",
            "configuration",
            |a| {
                for device in [DISK, VSOCK] {
                    for offset in [0x100, 0x104, 0x107, 0x10e, 0x110, 0x200, 0xff8, 0xffd] {
                        for width in [Width::Byte, Width::Word, Width::Double, Width::Quad] {
                            a.code.load(width, register_of(device, offset));
                            a.code.store(width, register_of(device, offset), !0);
                        }
                    }
                    // Across the border to the next device, or to no device.
                    a.code.load(Width::Quad, register_of(device, 0xffc));
                    a.code.store(Width::Quad, register_of(device, 0xffc), !0);
                }
                a.reads(DISK, register::CONFIG, 8, "the capacity stays");
            },
        ),
        attack("where no device is", "", |a| {
            for device in [4, 5, 100] {
                for offset in [0, 0x50, 0x60, 0x64, 0x70, 0x100] {
                    a.reads(device, offset, 0, "there is nothing");
                    a.set(device, offset, 0xffff_ffff);
                }
            }
        }),
        attack("every register, of every device, all ones", "", |a| {
            for device in 0..=VSOCK {
                for offset in (0..0x100).step_by(4) {
                    a.set(device, offset, 0xffff_ffff);
                    a.code.load(Width::Double, register_of(device, offset));
                }
            }
        }),
    ]);
}

#[test]
fn ports_that_are_not_there_and_wrong_accesses_to_those_that_are() {
    withstand(&[attack("all widths", "", |a| {
        let ports = [
            0, 0x20, 0x43, 0x60, 0x64, 0x80, 0xcf8, 0xe6, 0x3f9, 0x600, 0x608, 0x60a,
        ];
        for port in ports.into_iter().chain([0x1234, 0xfffe, 0xffff]) {
            for width in [Width::Byte, Width::Word, Width::Double] {
                a.code.input(width, port);
                a.code.out(width, port, 0);
            }
        }
        a.code.out_string(0x80, BUFFERS, 0x2000);
        // The serial line's loopback, which drivers use as a presence test, swallows output.
        a.code.out(Width::Byte, 0x3fc, 0);
    })]);
}

#[test]
fn resets_and_faults_are_the_end() {
    withstand(&[
        attack("a reset by the keyboard controller", "", |a| {
            a.up(DISK);
            a.code.out(Width::Byte, 0x64, 0xfe);
        })
        .ends(ExitReason::GuestReset),
        attack("a power-off with requests in flight", "", |a| {
            a.up(DISK);
            a.header(0, 1);
            for _ in 0..100 {
                a.ask_disk(0, &[(BUFFERS, 16, 0), (BUFFERS + 64, 1, 2)]);
            }
            a.code.out(Width::Byte, 0x600, 0x34);
        })
        .ends(ExitReason::GuestShutdown),
        attack("a fault without a handler", "", |a| {
            a.up(VSOCK);
            // lidt of an empty table, ud2
            a.code.put(&[0x0f, 0x01, 0x1d, 2, 0, 0, 0, 0x0f, 0x0b]);
            a.code.put(&[0; 10]);
        })
        .ends(ExitReason::TripleFault),
        attack("page tables that lead nowhere", "", |a| {
            a.code.store(Width::Quad, 0x9000, 0xffff_ffff_f003);
            a.code.put(&[0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8]); // mov rax, cr3; mov cr3, rax
        })
        .ends(ExitReason::TripleFault),
    ]);
}

#[test]
fn a_serial_flood_is_cut_to_its_budget() {
    withstand(&[attack("200 KiB", "", |a| {
        a.code.out_string(0x3f8, BUFFERS, 200 * 1024);
        // The guest's result has to wait until the console's budget has room again.
        a.code.pass_time();
        a.code.out(Width::Byte, 0x3f8, u32::from(b'\n'));
    })]);
}

#[test]
fn a_cpu_that_never_wakes_or_never_rests_can_be_stopped() {
    // `bare_guests.rs` has what the controller can do with such guests; here devices are at work
    // too.
    withstand(&[attack(
        "interrupts off, with work on every queue",
        "",
        |a| {
            a.code.put(&[0xfa]); // cli
            a.up(VSOCK);
            a.receive_buffers(8);
            a.disk_serves();
        },
    )]);
}
