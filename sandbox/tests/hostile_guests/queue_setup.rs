//! Hostile inputs 1 to 11: features, status and queue registers.

use hearth_sandbox::boot::layout::VIRTIO_MMIO;
use hearth_sandbox::devices::virtio::mmio::register;

use crate::assembler::Width;
use crate::attack::{Attack, attack, withstand};
use crate::driver::{
    Attacker, BUFFERS, DISK, NEEDS_RESET, RAM, RUNNING, VSOCK, available, descriptors, used,
};

/// A queue of the disk with these properties must be refused.
fn refused(a: &mut Attacker, size: u64, rings: [u64; 3]) {
    a.negotiate(DISK);
    a.size(DISK, 0, size);
    a.addresses(DISK, rings);
    a.set(DISK, register::QUEUE_READY, 1);
    a.reads(DISK, register::QUEUE_READY, 0, "the queue is refused");
    a.status_is(DISK, 0xb | NEEDS_RESET, "the device gave up");
    a.status(DISK, RUNNING);
    a.status_is(DISK, 0xb | NEEDS_RESET, "a refused queue is not driven");
}

fn rings() -> [u64; 3] {
    Attacker::own_rings(DISK, 0)
}

fn with_ring(n: usize, address: u64) -> [u64; 3] {
    let mut rings = rings();
    rings[n] = address;
    rings
}

#[test]
fn sizes_that_no_queue_may_have() {
    const ATTACKS: &[Attack] = &[
        attack("size 0", "queue size 0, it must be a power of two", |a| {
            refused(a, 0, rings());
        }),
        attack("odd sizes and sizes over the limit", "queue size", |a| {
            for size in [3, 127, 256, 0x8000, 0x1_0000, 0xffff_ffff] {
                refused(a, size, rings());
            }
        }),
    ];
    withstand(ATTACKS);
}

#[test]
fn queue_registers_at_the_wrong_time() {
    withstand(&[
        attack("before FEATURES_OK", "queue register", |a| {
            for status in [0, 1, 3] {
                a.status(DISK, status);
                a.size(DISK, 0, 8);
                a.addresses(DISK, rings());
                a.set(DISK, register::QUEUE_READY, 1);
                a.reads(DISK, register::QUEUE_READY, 0, "nothing was set up");
            }
        }),
        attack("after DRIVER_OK", "queue register", |a| {
            a.up(DISK);
            a.size(DISK, 0, 2);
            a.addresses(DISK, [BUFFERS, BUFFERS + 0x1000, BUFFERS + 0x2000]);
            a.set(DISK, register::QUEUE_READY, 0);
            a.reads(DISK, register::QUEUE_READY, 1, "the queue stays");
            a.set(DISK, register::QUEUE_READY, 1);
            a.reads_sector();
        }),
        attack("of a queue that is ready", "of ready queue", |a| {
            a.configure(DISK);
            a.addresses(DISK, [BUFFERS; 3]);
            a.set(DISK, register::QUEUE_NUM, 1);
            a.status(DISK, RUNNING);
            a.reads_sector();
        }),
    ]);
}

#[test]
fn rings_at_misaligned_addresses() {
    withstand(&[attack("off by half an alignment", "is not aligned", |a| {
        for (n, off) in [(0, 8), (0, 1), (1, 1), (2, 2), (2, 1)] {
            refused(a, 8, with_ring(n, rings()[n] + off));
        }
    })]);
}

#[test]
fn rings_outside_of_ram() {
    withstand(&[
        attack(
            "at the end, across it, far behind it",
            "is not in RAM",
            |a| {
                for n in 0..3 {
                    for address in [RAM, RAM - 16, VIRTIO_MMIO, 1 << 40, 0] {
                        refused(a, 128, with_ring(n, address));
                    }
                }
            },
        ),
        attack("wrapping 2^64", "is not in RAM", |a| {
            for n in 0..3 {
                refused(a, 128, with_ring(n, !0xf));
            }
        }),
    ]);
}

#[test]
fn rings_that_overlap() {
    withstand(&[
        attack("those of one queue", "overlap", |a| {
            let [table, available, used] = rings();
            refused(a, 128, [table, table, used]);
            refused(a, 128, [table, available, available]);
            refused(a, 128, [table, table + 0x7f0, used]);
        }),
        attack("those of two queues", "overlap", |a| {
            a.configure(VSOCK);
            a.set(VSOCK, register::QUEUE_SEL, 1);
            a.set(VSOCK, register::QUEUE_READY, 0);
            a.size(VSOCK, 1, 64);
            a.addresses(VSOCK, Attacker::own_rings(VSOCK, 0));
            a.set(VSOCK, register::QUEUE_READY, 1);
            a.status(VSOCK, RUNNING);
            a.status_is(VSOCK, RUNNING | NEEDS_RESET, "the device gave up");
        }),
    ]);
}

#[test]
fn queues_past_the_last() {
    withstand(&[attack("selected and set up", "of queue", |a| {
        a.negotiate(DISK);
        for queue in [1, 2, 0x1_0000, 0xffff_ffff] {
            a.size(DISK, queue, 8);
            a.reads(DISK, register::QUEUE_NUM_MAX, 0, "there is no such queue");
            a.addresses(DISK, rings());
            a.set(DISK, register::QUEUE_READY, 1);
            a.reads(DISK, register::QUEUE_READY, 0, "nor is it set up");
        }
        a.set(DISK, register::QUEUE_SEL, 0);
        a.reads(DISK, register::QUEUE_READY, 0, "nor any other");
    })]);
}

#[test]
fn ready_twice_active_twice_reset_while_active() {
    withstand(&[
        attack("QueueReady twice", "to QueueReady", |a| {
            a.configure(DISK);
            for value in [1, 1, 2, 0xffff_ffff] {
                a.set(DISK, register::QUEUE_READY, value);
                a.reads(DISK, register::QUEUE_READY, 1, "it was ready");
            }
            a.status(DISK, RUNNING);
            a.reads_sector();
        }),
        attack("DRIVER_OK twice", "", |a| {
            a.up(DISK);
            a.status(DISK, RUNNING);
            a.status_is(DISK, RUNNING, "nothing changed");
            a.reads_sector();
        }),
        attack("DRIVER_OK without a queue", "not ready", |a| {
            a.negotiate(DISK);
            a.status(DISK, RUNNING);
            a.status_is(DISK, RUNNING | NEEDS_RESET, "the device gave up");
        }),
        attack(
            "reset with requests in the ring, again and again",
            "",
            |a| {
                a.header(0, 1);
                for _ in 0..20 {
                    a.up(DISK);
                    let chain = [
                        (crate::driver::REQUEST, 16, 0),
                        (crate::driver::ANSWER, 1, 2),
                    ];
                    a.chain((DISK, 0), 0, &chain);
                    for _ in 0..50 {
                        a.offer((DISK, 0), 0);
                    }
                    a.kick((DISK, 0));
                    a.status(DISK, 0);
                    a.status_is(DISK, 0, "the device was reset");
                }
            },
        ),
    ]);
}

#[test]
fn status_bits_skipped_and_cleared() {
    withstand(&[
        attack("skipped", "status 0xf written over 0x0", |a| {
            for status in [2, 3, 0xb, 0xf, 0x40, 0x100, 0xffff_ffff] {
                a.status(DISK, status);
                a.status_is(DISK, 0, "the step was refused");
            }
        }),
        attack("cleared", "written over 0xf", |a| {
            a.up(DISK);
            for status in [1, 3, 7, 0xb] {
                a.status(DISK, status);
                a.status_is(DISK, RUNNING, "the step was refused");
            }
            a.reads_sector();
        }),
        attack("given up by the driver", "", |a| {
            a.up(DISK);
            a.status(DISK, RUNNING | 0x80);
            a.ask_disk(0, &[(BUFFERS, 16, 0), (BUFFERS + 16, 1, 2)]);
        }),
    ]);
}

#[test]
fn features_that_were_not_offered() {
    withstand(&[attack("acknowledged", "offered are", |a| {
        // Indirect descriptors, event indices, packed rings, all features; and none at all.
        for (low, high) in [(1 << 28, 1), (1 << 29, 1), (0, 5), (0xffff_ffff, 1), (0, 0)] {
            for status in [0, 1, 3] {
                a.status(DISK, status);
            }
            for (select, word) in [(0, low), (1, high)] {
                a.set(DISK, register::DRIVER_FEATURES_SEL, select);
                a.set(DISK, register::DRIVER_FEATURES, word);
            }
            a.status(DISK, 0xb);
            a.status_is(DISK, 3, "the features are refused");
        }
    })]);
}

#[test]
fn notifications_out_of_place() {
    withstand(&[
        attack("before activation", "notification of queue 0", |a| {
            a.kick((DISK, 0));
            a.configure(DISK);
            a.kick((DISK, 0));
            a.kick((VSOCK, 2));
        }),
        attack(
            "of queues that are not there",
            "notification of queue",
            |a| {
                a.up(DISK);
                for queue in [1, 3, 16, 0xffff_ffff] {
                    a.kick((DISK, queue));
                }
                let notify = crate::driver::register_of(DISK, register::QUEUE_NOTIFY);
                for width in [Width::Byte, Width::Word, Width::Quad] {
                    a.code.store(width, notify, 0);
                }
                a.reads_sector();
            },
        ),
    ]);
}

#[test]
fn rings_where_the_code_and_the_tables_of_the_guest_are() {
    // This harms only the guest: its page tables are not overwritten as long as no chain is
    // returned.
    withstand(&[attack("rings over page tables", "", |a| {
        a.negotiate(DISK);
        a.size(DISK, 0, 8);
        a.addresses(DISK, [0x9000, available(DISK, 0), used(DISK, 0)]);
        a.set(DISK, register::QUEUE_READY, 1);
        a.code.store(Width::Double, available(DISK, 0), 0);
        a.status(DISK, RUNNING);
        a.offer((DISK, 0), 0);
        a.kick((DISK, 0));
        a.gives_up(DISK);
        a.code.store(Width::Quad, descriptors(DISK, 0), 0);
    })]);
}
