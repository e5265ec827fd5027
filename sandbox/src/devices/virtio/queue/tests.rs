use super::*;
use crate::devices::virtio::mock_driver::{
    BUFFERS, INDIRECT, NEXT, RAM, Ring, SEAM, WRITE, memory,
};

const SIZE: u16 = 8;

fn ring() -> Ring {
    Ring::new(&memory(), 0, SIZE)
}

fn pop(ring: &Ring, queue: &mut VirtQueue) -> Result<Option<Chain>, RingError> {
    let mut chain = Chain::default();
    Ok(queue.pop(&ring.memory, &mut chain)?.then_some(chain))
}

fn pop_error(ring: &Ring) -> RingError {
    pop(ring, &mut ring.queue()).unwrap_err()
}

fn saved(ring: &Ring) -> SavedQueue {
    ring.queue().save()
}

fn restore(ring: &Ring, saved: &SavedQueue) -> Result<VirtQueue, RingError> {
    VirtQueue::restore(SIZE, saved, &ring.memory)
}

#[test]
fn a_chain_comes_off_with_its_buffers_in_order() {
    let mut ring = ring();
    let mut queue = ring.queue();
    ring.add(&[
        (BUFFERS, 16, 0),
        (BUFFERS + 16, 4, 0),
        (BUFFERS + 64, 8, WRITE),
    ]);
    let chain = pop(&ring, &mut queue).unwrap().unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (20, 8));
    assert_eq!(chain.descriptors(), 3);
    assert!(pop(&ring, &mut queue).unwrap().is_none());
    queue.push_used(&ring.memory, &chain, 8).unwrap();
    assert_eq!(ring.take_used(), [(0, 8)]);
}

#[test]
fn positions_wrap_around_at_2_to_the_16() {
    let mut ring = ring();
    let mut queue = ring.queue();
    for _ in 0..70_000 {
        ring.add(&[(BUFFERS, 1, 0)]);
        let chain = pop(&ring, &mut queue).unwrap().unwrap();
        queue.push_used(&ring.memory, &chain, 0).unwrap();
        assert_eq!(ring.take_used().len(), 1);
    }
    assert!(pop(&ring, &mut queue).unwrap().is_none());
}

#[test]
fn an_available_index_too_far_ahead_is_refused() {
    let mut ring = ring();
    let mut queue = ring.queue();
    // An index that is behind is the same as one that is far ahead.
    for index in [SIZE + 1, u16::MAX] {
        ring.set_avail_index(index);
        let error = pop(&ring, &mut queue).unwrap_err();
        assert!(matches!(error, RingError::AvailIndex { index: i, .. } if i == index));
    }
}

#[test]
fn a_head_outside_of_the_table_is_refused() {
    let mut ring = ring();
    ring.make_available(SIZE);
    assert_eq!(
        pop_error(&ring),
        RingError::DescriptorIndex { index: 8, size: 8 }
    );
}

#[test]
fn a_link_outside_of_the_table_is_refused() {
    let mut ring = ring();
    ring.put(0, BUFFERS, 1, NEXT, u16::MAX);
    ring.make_available(0);
    assert!(matches!(
        pop_error(&ring),
        RingError::DescriptorIndex { .. }
    ));
}

#[test]
fn a_chain_that_loops_is_refused() {
    let mut ring = ring();
    ring.put(0, BUFFERS, 1, NEXT, 1);
    ring.put(1, BUFFERS, 1, NEXT, 0);
    ring.make_available(0);
    assert_eq!(pop_error(&ring), RingError::Loop(0));
    ring.put(0, BUFFERS, 1, NEXT, 0);
    assert_eq!(pop_error(&ring), RingError::Loop(0));
}

#[test]
fn a_chain_of_all_descriptors_is_taken() {
    let mut ring = ring();
    ring.add(&[(BUFFERS, 1, 0); SIZE as usize]);
    let chain = pop(&ring, &mut ring.queue()).unwrap().unwrap();
    assert_eq!(chain.descriptors(), usize::from(SIZE));
}

#[test]
fn indirect_tables_are_refused_as_they_are_not_offered() {
    let mut ring = ring();
    ring.add(&[(BUFFERS, 16, INDIRECT)]);
    assert_eq!(pop_error(&ring), RingError::Indirect(0));
}

#[test]
fn an_empty_buffer_is_refused() {
    let mut ring = ring();
    ring.add(&[(BUFFERS, 16, 0), (BUFFERS, 0, WRITE)]);
    assert_eq!(pop_error(&ring), RingError::Empty(1));
}

#[test]
fn lengths_that_sum_past_2_to_the_32_are_refused() {
    // A real chain of that length needs as much RAM, so this uses RAM that is never touched.
    let big = 1_u64 << 31;
    let ranges = [(GuestAddress(0), 0x10_0000), (GuestAddress(big), 1 << 31)];
    let memory = GuestMemory::from_ranges(&ranges).unwrap();
    let mut ring = Ring::new(&memory, 0, SIZE);
    ring.add(&[(big, 1 << 31, 0), (big, 1 << 31, 0)]);
    assert_eq!(pop_error(&ring), RingError::TooLong(0));
}

#[test]
fn a_buffer_outside_of_ram_is_refused() {
    for (address, len) in [(RAM, 1), (RAM - 1, 2), (u64::MAX, 2), (u64::MAX - 1, 1)] {
        let mut ring = ring();
        ring.add(&[(address, len, WRITE)]);
        assert_eq!(pop_error(&ring), RingError::Buffer { address, len });
    }
}

#[test]
fn a_buffer_may_cross_from_one_region_of_ram_to_the_next() {
    let mut ring = ring();
    ring.add(&[(SEAM - 1, 2, 0)]);
    assert!(pop(&ring, &mut ring.queue()).unwrap().is_some());
}

#[test]
fn readable_after_writable_is_refused() {
    let mut ring = ring();
    ring.add(&[(BUFFERS, 1, WRITE), (BUFFERS, 1, 0)]);
    assert_eq!(pop_error(&ring), RingError::Order(1));
}

#[test]
fn a_chain_is_copied_once_so_later_changes_do_not_matter() {
    let mut ring = ring();
    ring.add(&[(BUFFERS, 16, 0)]);
    let mut queue = ring.queue();
    let chain = pop(&ring, &mut queue).unwrap().unwrap();
    ring.put(0, u64::MAX, u32::MAX, WRITE | NEXT, 9);
    let segment = Segment {
        address: GuestAddress(BUFFERS),
        len: 16,
    };
    assert_eq!(chain.readable(), [segment]);
    queue.push_used(&ring.memory, &chain, 0).unwrap();
    assert_eq!(ring.take_used(), [(0, 0)]);
}

#[test]
fn a_chain_put_back_is_the_next_again() {
    let mut ring = ring();
    ring.add(&[(BUFFERS, 1, 0)]);
    let mut queue = ring.queue();
    assert!(pop(&ring, &mut queue).unwrap().is_some());
    queue.undo_pop();
    assert!(queue.has_pending(&ring.memory).unwrap());
    assert!(pop(&ring, &mut queue).unwrap().is_some());
}

#[test]
fn the_driver_says_whether_it_wants_interrupts() {
    let ring = ring();
    let queue = ring.queue();
    assert!(queue.wants_interrupt(&ring.memory).unwrap());
    ring.set_no_interrupt(true);
    assert!(!queue.wants_interrupt(&ring.memory).unwrap());
}

#[test]
fn chains_that_came_while_the_driver_was_muted_are_noticed() {
    let mut ring = ring();
    let mut queue = ring.queue();
    queue.mute(&ring.memory).unwrap();
    assert!(!ring.notifications_wanted());
    assert!(!queue.unmute(&ring.memory).unwrap());
    assert!(ring.notifications_wanted());
    queue.mute(&ring.memory).unwrap();
    ring.add(&[(BUFFERS, 1, 0)]);
    assert!(queue.unmute(&ring.memory).unwrap());
}

#[test]
fn sizes_no_queue_may_have_are_refused() {
    let mut queue = VirtQueue::new(SIZE);
    for size in [0, 3, 16, 0x1_0008, u32::MAX] {
        assert_eq!(
            queue.set_size(size),
            Err(RingError::Size { size, max: SIZE })
        );
    }
    assert_eq!(queue.set_size(4), Ok(()));
}

#[test]
fn misaligned_rings_are_refused() {
    let mut queue = VirtQueue::new(SIZE);
    for (descriptors, available, used, align) in [
        (0x1008, 0x2000, 0x3000, 16),
        (0x1000, 0x2001, 0x3000, 2),
        (0x1000, 0x2000, 0x3002, 4),
    ] {
        let error = queue
            .set_addresses(descriptors, available, used)
            .unwrap_err();
        assert!(matches!(error, RingError::Misaligned { align: a, .. } if a == align));
    }
}

#[test]
fn rings_outside_of_ram_are_refused() {
    let memory = memory();
    let end_of_addresses = !0xf_u64;
    for bad in [RAM, RAM - 16, end_of_addresses, 0] {
        for which in 0..3 {
            let mut addresses = [0x1000, 0x2000, 0x3000];
            addresses[which] = bad;
            let mut queue = VirtQueue::new(SIZE);
            let [descriptors, available, used] = addresses;
            queue.set_addresses(descriptors, available, used).unwrap();
            let result = queue.check(&memory);
            assert!(
                matches!(result, Err(RingError::OutsideRam { address, .. }) if address == bad),
                "{which} at {bad:#x}: {result:?}"
            );
        }
    }
}

#[test]
fn overlapping_rings_are_refused() {
    let memory = memory();
    let mut queue = VirtQueue::new(SIZE);
    queue.set_addresses(0x1000, 0x1070, 0x3000).unwrap();
    assert!(matches!(
        queue.check(&memory),
        Err(RingError::Overlap(0x1000, 0x1070))
    ));
    queue.set_addresses(0x1000, 0x1080, 0x3000).unwrap();
    queue.check(&memory).unwrap();

    let mut other = VirtQueue::new(SIZE);
    other.set_addresses(0x5000, 0x3004, 0x6000).unwrap();
    other.check(&memory).unwrap();
    assert!(matches!(
        VirtQueue::check_apart(&[queue, other]),
        Err(RingError::Overlap(0x3000, 0x3004))
    ));
}

#[test]
fn a_saved_queue_comes_back_where_it_was() {
    let mut ring = ring();
    let mut queue = ring.queue();
    for _ in 0..100 {
        ring.add(&[(BUFFERS, 1, 0)]);
        let chain = pop(&ring, &mut queue).unwrap().unwrap();
        queue.push_used(&ring.memory, &chain, 0).unwrap();
    }
    let saved = queue.save();
    let mut queue = restore(&ring, &saved).unwrap();
    assert_eq!(queue.save(), saved);
    assert!(pop(&ring, &mut queue).unwrap().is_none());
    ring.add(&[(BUFFERS, 1, 0)]);
    assert!(pop(&ring, &mut queue).unwrap().is_some());
}

#[test]
fn saved_queues_that_no_driver_could_have_set_are_refused() {
    let ring = ring();
    let good = saved(&ring);
    restore(&ring, &good).unwrap();
    type Spoil = fn(&mut SavedQueue);
    let spoils: [Spoil; 10] = [
        |s| s.size = 0,
        |s| s.size = 5,
        |s| s.size = 16,
        |s| s.descriptors += 8,
        |s| s.available += 1,
        |s| s.used = RAM,
        |s| s.used = s.available,
        |s| s.next_used = 1,
        |s| (s.next_avail, s.next_used) = (1, 1),
        |s| (s.ready, s.next_avail, s.next_used) = (false, 1, 1),
    ];
    for (index, spoil) in spoils.iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(restore(&ring, &bad).is_err(), "spoilt in way {index}");
    }
}
