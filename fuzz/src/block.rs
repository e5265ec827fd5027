//! Block requests: a running driver that makes requests of any form.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use hearth_sandbox::devices::virtio::block::{Block, request};

use crate::script::Script;
use crate::world::{BUFFERS, RAM, Subject, World};

/// Sectors of the disk.
pub const SECTORS: u64 = 24;
const SECTOR: u64 = 512;
/// Where a request's parts are.
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;
/// Distance between two data buffers: more than the length in sectors that a script writes.
const STRIDE: u64 = 0x8000;
/// A status that no device writes.
const UNTOUCHED: u8 = 0xee;

/// Runs the script on a device with a running driver.
pub fn run(data: &[u8]) {
    let mut world = World::<Block>::up();
    world.play(&mut Script::new(data));
    assert_eq!(
        disk().metadata().expect("it is open").len(),
        SECTORS * SECTOR
    );
}

/// The byte at an offset of the disk. It depends on the sector and on the offset within it.
fn content(at: u64) -> u8 {
    let [sector, place] = [at / SECTOR, at % SECTOR].map(|part| part.to_le_bytes()[0]);
    sector.wrapping_mul(31).wrapping_add(place)
}

fn disk() -> &'static File {
    static DISK: OnceLock<File> = OnceLock::new();
    DISK.get_or_init(|| {
        let file = tempfile::tempfile().expect("a place for a disk");
        let bytes: Vec<u8> = (0..SECTORS * SECTOR).map(content).collect();
        file.write_all_at(&bytes, 0).expect("room for a disk");
        file
    })
}

impl Subject for Block {
    type OtherEnd = ();

    fn fresh() -> (Self, ()) {
        let file = disk().try_clone().expect("a descriptor is left");
        let block = Self::from_file(file, "disk".to_owned()).expect("whole sectors");
        (block, ())
    }

    fn carried(_: &mut World<Self>, (): ()) {}

    fn step(world: &mut World<Self>, script: &mut Script<'_>) -> Option<()> {
        let request = Request::read(script)?;
        request.send(world);
        Some(())
    }
}

/// A request of the script.
#[derive(Debug)]
struct Request {
    kind: u32,
    sector: u64,
    /// Whether the header is in one buffer, or split in two here.
    split: u8,
    /// Lengths of the data buffers, and whether the device may write them.
    data: Vec<(u32, bool)>,
    status: bool,
}

impl Request {
    fn read(script: &mut Script<'_>) -> Option<Self> {
        let kind = match script.below(8)? {
            0..=3 => request::IN,
            4 => request::OUT,
            5 => request::FLUSH,
            6 => request::GET_ID,
            _ => script.u32()?,
        };
        let sector = match script.u8()? {
            byte @ 0..248 => u64::from(byte) % (SECTORS + 2),
            _ => script.u64()?,
        };
        let shape = script.u8()?;
        let count = shape & 3;
        let mut data = Vec::new();
        for _ in 0..count {
            data.push((script.length()?, script.below(8)? != 0));
        }
        Some(Self {
            kind,
            sector,
            split: (shape >> 2) & 15,
            data,
            status: shape >> 6 != 3,
        })
    }

    fn send(&self, world: &mut World<Block>) {
        world.fill(HEADER, &self.kind.to_le_bytes());
        world.fill(HEADER + 4, &[0; 4]);
        world.fill(HEADER + 8, &self.sector.to_le_bytes());
        world.fill(STATUS, &[UNTOUCHED]);
        let split = u32::from(self.split);
        let mut chain = if split == 0 {
            vec![(HEADER, 16, false)]
        } else {
            vec![
                (HEADER, split, false),
                (HEADER + u64::from(split), 16 - split, false),
            ]
        };
        for (index, (len, writable)) in (0..).zip(&self.data) {
            chain.push((DATA + STRIDE * index, *len, *writable));
        }
        if self.status {
            chain.push((STATUS, 1, true));
        }
        let honest = !world.tampered && world.transport.running();
        world.add(0, &chain);
        world.notify(0);
        let used = world.take_used(0);
        if honest && self.well_formed() {
            assert!(world.transport.running(), "a correct driver's device works");
            let [used] = used[..] else {
                panic!("{} chains came back of one", used.len());
            };
            self.check(world, used.len);
        } else {
            // The device is out of service, or its rings are no longer as this driver expects.
            world.tampered = true;
        }
    }

    /// Whether a driver may send this request. It then gets an answer, perhaps an error.
    fn well_formed(&self) -> bool {
        let readable_first = self.data.windows(2).all(|pair| pair[0].1 <= pair[1].1);
        let in_ram = |index: u64, len: u32| DATA + STRIDE * index + u64::from(len) <= RAM;
        let fits = (0..)
            .zip(&self.data)
            .all(|(i, (len, _))| *len > 0 && in_ram(i, *len));
        self.status && readable_first && fits
    }

    fn check(&self, world: &World<Block>, written: u32) {
        let room: u64 = self.written().map(|(_, len)| len).sum();
        let input = self.data.iter().any(|(_, writable)| !writable);
        let sectors = room / SECTOR;
        let end = self.sector.checked_add(sectors);
        let possible =
            !input && room.is_multiple_of(SECTOR) && end.is_some_and(|end| end <= SECTORS);
        let (status, len) = match self.kind {
            request::IN if possible => (request::OK, room),
            request::FLUSH => (request::OK, 0),
            request::GET_ID if room >= request::ID as u64 && !input => {
                (request::OK, request::ID as u64)
            }
            request::IN | request::OUT | request::GET_ID => (request::IOERR, 0),
            _ => (request::UNSUPP, 0),
        };
        let answer = world.bytes(STATUS, 1)[0];
        assert_eq!(answer, status, "{self:?}");
        assert_eq!(u64::from(written), len + 1, "{self:?}");
        if self.kind == request::IN && status == request::OK {
            let mut at = self.sector * SECTOR;
            for (address, len) in self.written() {
                let read = world.bytes(address, usize::try_from(len).expect("in RAM"));
                let wanted: Vec<u8> = (at..at + len).map(content).collect();
                assert_eq!(read, wanted, "{self:?}");
                at += len;
            }
        }
    }

    /// Data buffers that the device may write: address and length.
    fn written(&self) -> impl Iterator<Item = (u64, u64)> {
        (0..)
            .zip(&self.data)
            .filter(|(_, (_, writable))| *writable)
            .map(|(index, (len, _))| (DATA + STRIDE * index, u64::from(*len)))
    }
}
