//! What every SQLite file of the controller is opened with.

use std::time::Duration;

use rusqlite::Connection;

/// Longest wait for somebody else who has a file locked.
pub(crate) const BUSY: Duration = Duration::from_secs(5);

/// Makes each commit reach the disk before it returns, and lets readers be while one is written.
pub(crate) fn make_durable(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.busy_timeout(BUSY)
}
