//! Compares the specification's numbers, which the devices define by hand, with those in the
//! kernel's headers.

use virtio_bindings::{virtio_blk, virtio_config, virtio_ids, virtio_mmio, virtio_ring};

use super::block::{Block, request};
use super::device::VirtioDevice;
use super::mmio::{F_VERSION_1, register};
use super::mock_driver::{INDIRECT, NEXT, WRITE};
use super::vsock::Vsock;
use super::{interrupt, status};

#[test]
fn registers_are_where_the_kernel_looks_for_them() {
    let pairs = [
        (register::MAGIC_VALUE, virtio_mmio::VIRTIO_MMIO_MAGIC_VALUE),
        (register::VERSION, virtio_mmio::VIRTIO_MMIO_VERSION),
        (register::DEVICE_ID, virtio_mmio::VIRTIO_MMIO_DEVICE_ID),
        (register::VENDOR_ID, virtio_mmio::VIRTIO_MMIO_VENDOR_ID),
        (
            register::DEVICE_FEATURES,
            virtio_mmio::VIRTIO_MMIO_DEVICE_FEATURES,
        ),
        (
            register::DEVICE_FEATURES_SEL,
            virtio_mmio::VIRTIO_MMIO_DEVICE_FEATURES_SEL,
        ),
        (
            register::DRIVER_FEATURES,
            virtio_mmio::VIRTIO_MMIO_DRIVER_FEATURES,
        ),
        (
            register::DRIVER_FEATURES_SEL,
            virtio_mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL,
        ),
        (register::QUEUE_SEL, virtio_mmio::VIRTIO_MMIO_QUEUE_SEL),
        (
            register::QUEUE_NUM_MAX,
            virtio_mmio::VIRTIO_MMIO_QUEUE_NUM_MAX,
        ),
        (register::QUEUE_NUM, virtio_mmio::VIRTIO_MMIO_QUEUE_NUM),
        (register::QUEUE_READY, virtio_mmio::VIRTIO_MMIO_QUEUE_READY),
        (
            register::QUEUE_NOTIFY,
            virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY,
        ),
        (
            register::INTERRUPT_STATUS,
            virtio_mmio::VIRTIO_MMIO_INTERRUPT_STATUS,
        ),
        (
            register::INTERRUPT_ACK,
            virtio_mmio::VIRTIO_MMIO_INTERRUPT_ACK,
        ),
        (register::STATUS, virtio_mmio::VIRTIO_MMIO_STATUS),
        (
            register::QUEUE_DESC_LOW,
            virtio_mmio::VIRTIO_MMIO_QUEUE_DESC_LOW,
        ),
        (
            register::QUEUE_DESC_HIGH,
            virtio_mmio::VIRTIO_MMIO_QUEUE_DESC_HIGH,
        ),
        (
            register::QUEUE_DRIVER_LOW,
            virtio_mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW,
        ),
        (
            register::QUEUE_DRIVER_HIGH,
            virtio_mmio::VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
        ),
        (
            register::QUEUE_DEVICE_LOW,
            virtio_mmio::VIRTIO_MMIO_QUEUE_USED_LOW,
        ),
        (
            register::QUEUE_DEVICE_HIGH,
            virtio_mmio::VIRTIO_MMIO_QUEUE_USED_HIGH,
        ),
        (register::SHM_SEL, virtio_mmio::VIRTIO_MMIO_SHM_SEL),
        (register::SHM_LEN_LOW, virtio_mmio::VIRTIO_MMIO_SHM_LEN_LOW),
        (
            register::SHM_BASE_HIGH,
            virtio_mmio::VIRTIO_MMIO_SHM_BASE_HIGH,
        ),
        (
            register::CONFIG_GENERATION,
            virtio_mmio::VIRTIO_MMIO_CONFIG_GENERATION,
        ),
        (register::CONFIG, virtio_mmio::VIRTIO_MMIO_CONFIG),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(ours, u64::from(theirs));
    }
    assert_eq!(interrupt::QUEUE, virtio_mmio::VIRTIO_MMIO_INT_VRING);
    assert_eq!(interrupt::CONFIG, virtio_mmio::VIRTIO_MMIO_INT_CONFIG);
}

#[test]
fn status_bits_flags_and_features_are_the_kernels() {
    let pairs = [
        (
            status::ACKNOWLEDGE,
            virtio_config::VIRTIO_CONFIG_S_ACKNOWLEDGE,
        ),
        (status::DRIVER, virtio_config::VIRTIO_CONFIG_S_DRIVER),
        (status::DRIVER_OK, virtio_config::VIRTIO_CONFIG_S_DRIVER_OK),
        (
            status::FEATURES_OK,
            virtio_config::VIRTIO_CONFIG_S_FEATURES_OK,
        ),
        (
            status::DEVICE_NEEDS_RESET,
            virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET,
        ),
        (status::FAILED, virtio_config::VIRTIO_CONFIG_S_FAILED),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(u32::from(ours), theirs);
    }
    assert_eq!(F_VERSION_1, 1 << virtio_config::VIRTIO_F_VERSION_1);
    assert_eq!(u32::from(NEXT), virtio_ring::VRING_DESC_F_NEXT);
    assert_eq!(u32::from(WRITE), virtio_ring::VRING_DESC_F_WRITE);
    assert_eq!(u32::from(INDIRECT), virtio_ring::VRING_DESC_F_INDIRECT);
}

#[test]
fn devices_and_requests_are_the_kernels() {
    assert_eq!(Block::TYPE, virtio_ids::VIRTIO_ID_BLOCK);
    assert_eq!(Vsock::TYPE, virtio_ids::VIRTIO_ID_VSOCK);
    let features = 1 << virtio_blk::VIRTIO_BLK_F_RO | 1 << virtio_blk::VIRTIO_BLK_F_SEG_MAX;
    assert_eq!(Block::empty().features(), features);
    assert_eq!(request::IN, virtio_blk::VIRTIO_BLK_T_IN);
    assert_eq!(request::OUT, virtio_blk::VIRTIO_BLK_T_OUT);
    assert_eq!(request::FLUSH, virtio_blk::VIRTIO_BLK_T_FLUSH);
    assert_eq!(request::GET_ID, virtio_blk::VIRTIO_BLK_T_GET_ID);
    assert_eq!(u32::from(request::OK), virtio_blk::VIRTIO_BLK_S_OK);
    assert_eq!(u32::from(request::IOERR), virtio_blk::VIRTIO_BLK_S_IOERR);
    assert_eq!(u32::from(request::UNSUPP), virtio_blk::VIRTIO_BLK_S_UNSUPP);
    assert_eq!(request::ID, virtio_blk::VIRTIO_BLK_ID_BYTES as usize);
}
