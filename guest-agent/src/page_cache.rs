//! Reads the files that a runtime's process executes into the page cache, before the runtime snapshot is
//! taken. Otherwise an invocation that runs code for the first time reads it from the disk: one fault
//! reads 32 pages and costs more than a whole warm invocation.

use std::fs::{self, File};
use std::io::{self, Read};

/// The image's list of files, one path per line. An image need not have one.
const LIST: &str = "/etc/hearth/resident";
/// Bytes of one read. At this size the guest kernel reads ahead in large folios, each of which it maps at
/// once.
const PIECE: usize = 128 * 1024;

/// Reads all files of the list.
pub(crate) fn fill() -> io::Result<()> {
    let list = match fs::read_to_string(LIST) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        list => list?,
    };
    let mut piece = vec![0; PIECE];
    for path in list.lines() {
        let mut file = File::open(path)?;
        while file.read(&mut piece)? > 0 {}
    }
    Ok(())
}
