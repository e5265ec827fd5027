//! Brings what a runtime's process executes into the page cache, before the runtime snapshot is
//! taken. Code that runs for the first time in an invocation is otherwise read from the disk by it:
//! one fault reads 32 pages and costs more than the whole of a warm invocation.

use std::fs::{self, File};
use std::io::{self, Read};

/// The image's list of files, one path in each line. An image need not have one.
const LIST: &str = "/etc/hearth/resident";
/// In reads of this size the kernel reads ahead in large folios, which it maps in one go.
const PIECE: usize = 128 * 1024;

/// Reads all of them.
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
