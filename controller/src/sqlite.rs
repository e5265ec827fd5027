//! Settings of all SQLite files of the controller.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// Maximum time to wait for a lock of another process.
pub(crate) const BUSY: Duration = Duration::from_secs(5);

/// Makes each commit reach the disk before it returns, and lets readers read during a commit.
pub(crate) fn make_durable(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.busy_timeout(BUSY)
}

/// Moves everything from a file's write-ahead log into the file, so that the file alone is complete.
pub(crate) fn checkpoint(path: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(BUSY)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}
