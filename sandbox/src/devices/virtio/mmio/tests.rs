use super::*;
use crate::devices::virtio::block::Block;
use crate::devices::virtio::mock_driver::{
    BUFFERS, Driver, RAM, negotiate, read, write, write_addresses,
};

const NEEDS_RESET: u32 = 0x40;

fn disk() -> Block {
    Block::empty()
}

fn fresh() -> (Driver, MmioTransport<Block>) {
    Driver::new(disk())
}

fn status(transport: &mut MmioTransport<Block>) -> u32 {
    read(transport, register::STATUS)
}

#[test]
fn the_device_says_what_it_is() {
    let (_, mut t) = fresh();
    assert_eq!(read(&mut t, register::MAGIC_VALUE), MAGIC);
    assert_eq!(read(&mut t, register::VERSION), 2);
    assert_eq!(read(&mut t, register::DEVICE_ID), 2);
    assert_eq!(read(&mut t, register::VENDOR_ID), VENDOR);
    assert_eq!(read(&mut t, register::QUEUE_NUM_MAX), 128);
    write(&mut t, register::DEVICE_FEATURES_SEL, 1);
    assert_eq!(read(&mut t, register::DEVICE_FEATURES), 1, "VERSION_1");
    write(&mut t, register::DEVICE_FEATURES_SEL, 2);
    assert_eq!(read(&mut t, register::DEVICE_FEATURES), 0);
    assert_eq!(read(&mut t, register::SHM_LEN_LOW), u32::MAX);
}

#[test]
fn a_driver_comes_up_and_resets() {
    let (_, mut t) = Driver::up(disk());
    assert!(t.running());
    write(&mut t, register::STATUS, 0);
    assert_eq!(status(&mut t), 0);
    assert_eq!(read(&mut t, register::QUEUE_READY), 0);
    assert!(!t.running());
    let (driver, _) = fresh();
    // And up again, as after a reset of an active device.
    let (mut t, memory) = (t, driver.memory.clone());
    t.memory = memory;
    driver.configure(&mut t);
    write(&mut t, register::STATUS, 0xf);
    assert!(t.running());
}

#[test]
fn accesses_of_the_wrong_width_or_alignment_do_nothing() {
    let (_, mut t) = fresh();
    for width in [1, 2, 3, 8] {
        let mut data = vec![0xaa; width];
        t.read(register::MAGIC_VALUE, &mut data);
        assert_eq!(data, vec![0; width]);
        t.write(register::STATUS, &vec![1; width]);
        assert_eq!(status(&mut t), 0);
    }
    let mut data = [0xaa; 4];
    t.read(register::MAGIC_VALUE + 2, &mut data);
    assert_eq!(data, [0; 4]);
    t.write(register::STATUS + 1, &[1, 0, 0, 0]);
    t.write(register::STATUS, &[]);
    assert_eq!(status(&mut t), 0);
}

#[test]
fn registers_that_do_not_exist_read_zero_and_swallow_writes() {
    let (_, mut t) = fresh();
    for offset in (0..register::CONFIG).step_by(4) {
        // In this state no register access has an effect.
        read(&mut t, offset);
        if offset != register::STATUS {
            write(&mut t, offset, u32::MAX);
        }
    }
    assert_eq!(read(&mut t, 0x0d0), 0);
    assert_eq!(status(&mut t), 0);
}

#[test]
fn configuration_is_read_by_byte_word_and_dword_and_ends_in_zeros() {
    let (_, mut t) = fresh();
    let seg_max = read(&mut t, register::CONFIG + 12);
    assert_ne!(seg_max, 0);
    let mut byte = [0xaa];
    t.read(register::CONFIG + 12, &mut byte);
    assert_eq!(byte, [seg_max.to_le_bytes()[0]]);
    let mut word = [0xaa; 2];
    t.read(register::CONFIG + 14, &mut word);
    assert_eq!(word, [0, 0]);
    for offset in [16, 0x200, 0xefc, u64::MAX - 0x103] {
        let mut data = [0xaa; 4];
        t.read(register::CONFIG + offset, &mut data);
        assert_eq!(data, [0; 4], "at {offset:#x}");
    }
    for (offset, width) in [(1, 2), (2, 4), (0, 8), (0, 3)] {
        let mut data = vec![0xaa; width];
        t.read(register::CONFIG + offset, &mut data);
        assert_eq!(data, vec![0; width]);
    }
    t.write(register::CONFIG, &[1; 4]);
    assert_eq!(read(&mut t, register::CONFIG), 0);
}

#[test]
fn skipped_and_cleared_status_bits_are_refused() {
    let (_, mut t) = fresh();
    for skipped in [2, 3, 0xb, 0xf, 0x40, 0x100, u32::MAX] {
        write(&mut t, register::STATUS, skipped);
        assert_eq!(status(&mut t), 0);
    }
    let (_, mut t) = Driver::up(disk());
    for cleared in [1, 3, 7, 0xb] {
        write(&mut t, register::STATUS, cleared);
        assert_eq!(status(&mut t), 0xf);
    }
}

#[test]
fn features_that_were_not_offered_are_not_agreed_on() {
    for (low, high) in [(u32::MAX, 1), (1 << 29, 1), (0, 3), (1 << 5, 0)] {
        let (_, mut t) = fresh();
        write(&mut t, register::STATUS, 1);
        write(&mut t, register::STATUS, 3);
        write(&mut t, register::DRIVER_FEATURES_SEL, 0);
        write(&mut t, register::DRIVER_FEATURES, low);
        write(&mut t, register::DRIVER_FEATURES_SEL, 1);
        write(&mut t, register::DRIVER_FEATURES, high);
        write(&mut t, register::STATUS, 0xb);
        assert_eq!(status(&mut t), 3, "{high:#x}:{low:#x}");
    }
}

#[test]
fn features_can_not_be_changed_once_agreed_on() {
    let (_, mut t) = Driver::up(disk());
    let agreed = t.driver_features;
    write(&mut t, register::DRIVER_FEATURES_SEL, 0);
    write(&mut t, register::DRIVER_FEATURES, u32::MAX);
    assert_eq!(t.driver_features, agreed);
}

#[test]
fn queue_registers_are_closed_before_features_ok_and_after_driver_ok() {
    let (driver, mut t) = fresh();
    driver.set_up_queue(&mut t, 0);
    assert_eq!(read(&mut t, register::QUEUE_READY), 0);
    negotiate(&mut t);
    assert_eq!(t.setups[0].size, None, "nothing was remembered");

    let (_, mut t) = Driver::up(disk());
    let before = t.queues[0].save();
    write(&mut t, register::QUEUE_READY, 0);
    write(&mut t, register::QUEUE_NUM, 2);
    write_addresses(&mut t, BUFFERS, BUFFERS + 0x1000, BUFFERS + 0x2000);
    write(&mut t, register::QUEUE_READY, 1);
    assert_eq!(t.queues[0].save(), before);
    assert_eq!(status(&mut t), 0xf);
}

#[test]
fn a_ready_queue_is_not_changed() {
    let (driver, mut t) = fresh();
    driver.configure(&mut t);
    let before = t.queues[0].save();
    write(&mut t, register::QUEUE_NUM, 2);
    write(&mut t, register::QUEUE_READY, 1);
    assert_eq!(t.queues[0].save(), before);
    write(&mut t, register::QUEUE_READY, 0);
    assert_eq!(read(&mut t, register::QUEUE_READY), 0);
    driver.set_up_queue(&mut t, 0);
    assert_eq!(read(&mut t, register::QUEUE_READY), 1);
}

#[test]
fn a_queue_that_can_not_be_takes_the_device_out_of_service() {
    let good = [0x1_0000, 0x2_0000, 0x3_0000];
    let cases = [
        (0, good),
        (3, good),
        (256, good),
        (u32::MAX, good),
        (8, [0x1_0001, good[1], good[2]]),
        (8, [good[0], 0x2_0001, good[2]]),
        (8, [good[0], good[1], 0x3_0002]),
        (8, [RAM, good[1], good[2]]),
        (8, [good[0], RAM - 4, good[2]]),
        (8, [good[0], good[1], !3]),
        (8, [good[0], good[0], good[2]]),
    ];
    for (size, [descriptors, available, used]) in cases {
        let (_, mut t) = fresh();
        negotiate(&mut t);
        write(&mut t, register::QUEUE_NUM, size);
        write_addresses(&mut t, descriptors, available, used);
        write(&mut t, register::QUEUE_READY, 1);
        assert_eq!(read(&mut t, register::QUEUE_READY), 0);
        assert_eq!(status(&mut t), 0xb | NEEDS_RESET);
        write(&mut t, register::STATUS, 0xf);
        assert!(!t.running());
        write(&mut t, register::STATUS, 0);
        assert_eq!(status(&mut t), 0);
    }
}

#[test]
fn a_queue_past_the_last_is_not_there() {
    let (driver, mut t) = fresh();
    negotiate(&mut t);
    for sel in [1, 0x1_0000, u32::MAX] {
        write(&mut t, register::QUEUE_SEL, sel);
        assert_eq!(read(&mut t, register::QUEUE_NUM_MAX), 0);
        assert_eq!(read(&mut t, register::QUEUE_READY), 0);
        write(&mut t, register::QUEUE_NUM, 8);
        write(&mut t, register::QUEUE_READY, 1);
    }
    driver.set_up_queue(&mut t, 0);
    write(&mut t, register::STATUS, 0xf);
    assert!(t.running());
}

#[test]
fn driver_ok_without_queues_takes_the_device_out_of_service() {
    let (driver, mut t) = fresh();
    negotiate(&mut t);
    write(&mut t, register::STATUS, 0xf);
    assert_eq!(status(&mut t), 0xf | NEEDS_RESET);
    assert_eq!(t.interrupt.status(), interrupt::CONFIG);
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn notifications_of_nothing_are_ignored() {
    let (driver, mut t) = fresh();
    t.notify(0);
    driver.configure(&mut t);
    t.notify(0);
    write(&mut t, register::STATUS, 0xf);
    for bad in [1, 64, usize::MAX] {
        t.notify(bad);
    }
    write(&mut t, register::QUEUE_NOTIFY, u32::MAX);
    assert!(t.running());
    assert_eq!(driver.interrupts(), 0);
}

#[test]
fn a_ring_violation_is_final_until_reset_and_told_once() {
    let (mut driver, mut t) = Driver::up(disk());
    driver.rings[0].set_avail_index(1000);
    for _ in 0..1000 {
        t.notify(0);
        t.kick_all();
    }
    assert_eq!(status(&mut t), 0xf | NEEDS_RESET);
    assert_eq!(t.interrupt.status(), interrupt::CONFIG);
    assert!(!t.has_backlog());
    assert!(matches!(t.save(), Err(NotQuiet::Broken("block"))));
    driver.rings[0].set_avail_index(0);
    t.notify(0);
    assert!(driver.rings[0].take_used().is_empty());
    write(&mut t, register::STATUS, 0);
    driver.configure(&mut t);
    write(&mut t, register::STATUS, 0xf);
    assert!(t.running());
}

/// The event loop looked for the backlog in each iteration and never waited again.
#[test]
fn what_was_cut_short_is_forgotten_when_the_driver_gives_up() {
    let (_driver, mut t) = Driver::up(disk());
    t.backlog = 1;
    write(&mut t, register::STATUS, 0xf | u32::from(status::FAILED));
    assert!(!t.running() && !t.has_backlog());
}

#[test]
fn interrupts_are_acknowledged_through_the_register_as_well() {
    let (_driver, mut t) = fresh();
    t.interrupt.trigger_queue().unwrap();
    assert_eq!(read(&mut t, register::INTERRUPT_STATUS), 1);
    write(&mut t, register::INTERRUPT_ACK, 2);
    assert_eq!(read(&mut t, register::INTERRUPT_STATUS), 1);
    write(&mut t, register::INTERRUPT_ACK, 1);
    assert_eq!(read(&mut t, register::INTERRUPT_STATUS), 0);
}

#[test]
fn a_running_transport_survives_a_snapshot_with_its_pending_interrupt() {
    let (mut driver, t) = Driver::up(disk());
    t.interrupt.trigger_queue().unwrap();
    let json = serde_json::to_string(&t.save().unwrap()).unwrap();
    let state = serde_json::from_str(&json).unwrap();
    let line = driver.new_line();
    let mut t = MmioTransport::restore(disk(), &state, driver.memory.clone(), line).unwrap();
    assert_eq!(driver.interrupts(), 0, "nothing before the guest runs");
    t.kick_all();
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(t.interrupt.status(), interrupt::QUEUE);
    assert_eq!(t.save().unwrap(), state);
}

#[test]
fn a_transport_without_driver_survives_a_snapshot() {
    let (mut driver, t) = fresh();
    let state = t.save().unwrap();
    assert_eq!(state.driver, None);
    let line = driver.new_line();
    let mut t = MmioTransport::restore(disk(), &state, driver.memory.clone(), line).unwrap();
    driver.configure(&mut t);
    write(&mut t, register::STATUS, 0xf);
    assert!(t.running());
}

#[test]
fn a_driver_halfway_up_is_not_snapshotted() {
    let (_, mut t) = fresh();
    write(&mut t, register::STATUS, 1);
    assert!(t.save().is_err());
}

#[test]
fn saved_transports_that_can_not_be_are_refused() {
    let (driver, t) = Driver::up(disk());
    let good = t.save().unwrap();
    type State = TransportState<<Block as VirtioDevice>::State>;
    type Spoil = fn(&mut State);
    let spoils: [Spoil; 9] = [
        |s| s.device_type = 19,
        |s| s.interrupt_status = 4,
        |s| s.driver.as_mut().unwrap().features = 0,
        |s| s.driver.as_mut().unwrap().features |= 1 << 29,
        |s| s.driver.as_mut().unwrap().queues.clear(),
        |s| {
            let queues = &mut s.driver.as_mut().unwrap().queues;
            queues.push(queues[0].clone());
        },
        |s| s.driver.as_mut().unwrap().queues[0].ready = false,
        |s| s.driver.as_mut().unwrap().queues[0].used = RAM,
        |s| s.device.sectors = u64::MAX,
    ];
    for (index, spoil) in spoils.iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        let line = t.interrupt.clone();
        let result = MmioTransport::restore(disk(), &bad, driver.memory.clone(), line);
        assert!(result.is_err(), "spoilt in way {index}");
    }
}
