//! Registers: a driver that sets a device up in any order, with any access width, again and again.

use hearth_sandbox::devices::virtio::block::Block;
use hearth_sandbox::devices::virtio::vsock::Vsock;

use crate::script::Script;
use crate::world::World;

/// The first byte selects the device, which has no driver yet.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    match script.u8() {
        Some(byte) if byte & 1 == 0 => World::<Block>::new().play(&mut script),
        Some(_) => World::<Vsock>::new().play(&mut script),
        None => {}
    }
}
