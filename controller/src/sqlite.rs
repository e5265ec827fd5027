//! Settings of all SQLite files of the controller.

use std::time::Duration;

use rusqlite::Connection;

/// Maximum time to wait for a lock of another process.
pub(crate) const BUSY: Duration = Duration::from_secs(5);

/// Makes each commit reach the disk before it returns, and lets readers read during a commit.
pub(crate) fn make_durable(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.busy_timeout(BUSY)
}
