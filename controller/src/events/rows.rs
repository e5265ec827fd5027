//! The queue's file: its schema and its statements.
//!
//! The payload is the last column of a row, so that a start, which reads the other columns of all rows,
//! does not read payloads.

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::event::{Event, EventLimits, EventRequest};
use super::group_commit::EventsError;
use crate::function::{FunctionName, TenantId};
use crate::sqlite::{BUSY, make_durable};

/// Schema changes in order. A file's `user_version` is the number of those that were applied.
const MIGRATIONS: [&str; 3] = [
    "CREATE TABLE events (
    id INTEGER PRIMARY KEY NOT NULL,
    request_id TEXT NOT NULL,
    function TEXT NOT NULL,
    qualifier TEXT,
    accepted_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    trace_id TEXT,
    timeout_ms INTEGER,
    memory_mib INTEGER,
    cpu_ms INTEGER,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX events_of_function ON events (function, id)",
    "CREATE TABLE configs (
    function TEXT NOT NULL,
    qualifier TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (function, qualifier)
) STRICT, WITHOUT ROWID",
    // After the payload, which is fine for a column that only `read` reads.
    "ALTER TABLE events ADD COLUMN tenant TEXT",
];

/// Number of pages of 4 KiB in the write-ahead log after which SQLite writes them into the file.
const CHECKPOINT_PAGES: i64 = 4000;

/// The columns of a stored event that the schedule needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) id: i64,
    pub(crate) function: String,
    pub(crate) due_ms: i64,
    pub(crate) payload_len: u64,
}

/// Opens the file for writing; creates or migrates it if needed.
pub(crate) fn open(path: &Path) -> Result<Connection, EventsError> {
    let sqlite = |source| EventsError::sqlite(path, source);
    let mut connection = Connection::open(path).map_err(sqlite)?;
    // Takes effect only in a new file. Later starts then give the space of a long queue back to the
    // file system.
    connection
        .pragma_update(None, "auto_vacuum", "INCREMENTAL")
        .map_err(sqlite)?;
    // An event is accepted only when it is on disk.
    make_durable(&connection).map_err(sqlite)?;
    connection
        .pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
        .map_err(sqlite)?;
    migrate(&mut connection, path)?;
    connection
        .execute_batch("PRAGMA incremental_vacuum")
        .map_err(sqlite)?;
    Ok(connection)
}

/// Opens for reading a file that [`open`] has created.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, EventsError> {
    let sqlite = |source| EventsError::sqlite(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    connection.busy_timeout(BUSY).map_err(sqlite)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), EventsError> {
    let sqlite = |source| EventsError::sqlite(path, source);
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(sqlite)?;
    let done = usize::try_from(found)
        .ok()
        .filter(|done| *done <= MIGRATIONS.len())
        .ok_or(EventsError::TooNew {
            path: path.into(),
            found,
            known: MIGRATIONS.len(),
        })?;
    for (version, statements) in (1i64..).zip(MIGRATIONS).skip(done) {
        let step = connection.transaction().map_err(sqlite)?;
        step.execute_batch(statements).map_err(sqlite)?;
        step.pragma_update(None, "user_version", version)
            .map_err(sqlite)?;
        step.commit().map_err(sqlite)?;
    }
    Ok(())
}

/// All events, oldest first, with only the columns that the schedule needs.
pub(crate) fn all(connection: &Connection) -> rusqlite::Result<Vec<Stored>> {
    let mut select = connection
        .prepare("SELECT id, function, due_ms, length(payload) FROM events ORDER BY id")?;
    let rows = select.query_map([], |row| {
        Ok(Stored {
            id: row.get(0)?,
            function: text(row, 1)?.unwrap_or_default(),
            due_ms: row.get(2)?,
            payload_len: row.get::<_, i64>(3)?.unsigned_abs(),
        })
    })?;
    rows.collect()
}

pub(crate) fn insert(
    connection: &Connection,
    id: i64,
    accepted_ms: i64,
    event: &EventRequest,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO events (id, request_id, function, qualifier, accepted_ms, due_ms, runs,
                 trace_id, timeout_ms, memory_mib, cpu_ms, payload, tenant)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            id,
            event.request_id,
            event.function.as_str(),
            event.qualifier,
            accepted_ms,
            event.trace_id,
            event.limits.timeout_ms,
            event.limits.memory_mib,
            event.limits.cpu_ms,
            &event.payload[..],
            event.tenant.as_ref().map(TenantId::as_str),
        ])
        .map(drop)
}

pub(crate) fn read(connection: &Connection, id: i64) -> rusqlite::Result<Option<Event>> {
    connection
        .prepare_cached(
            "SELECT id, request_id, function, qualifier, accepted_ms, runs, trace_id, timeout_ms,
                 memory_mib, cpu_ms, payload, tenant
             FROM events WHERE id = ?1",
        )?
        .query_row(params![id], event)
        .optional()
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let name = text(row, 2)?.unwrap_or_default();
    let function = FunctionName::parse(&name).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(Event {
        id: row.get(0)?,
        accepted_ms: row.get(4)?,
        runs: row.get(5)?,
        request: EventRequest {
            request_id: text(row, 1)?.unwrap_or_default(),
            function,
            qualifier: text(row, 3)?,
            payload: Bytes::from(row.get::<_, Vec<u8>>(10)?),
            trace_id: text(row, 6)?,
            // A damaged one is none, and then the function does not run.
            tenant: text(row, 11)?.as_deref().and_then(TenantId::parse),
            limits: EventLimits {
                timeout_ms: row.get(7)?,
                memory_mib: row.get(8)?,
                cpu_ms: row.get(9)?,
            },
        },
    })
}

/// A text, in which bytes that are none are replaced: one damaged row must not hide all others.
fn text(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<String>> {
    let bytes = row.get_ref(at)?.as_bytes_or_null().unwrap_or_default();
    Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

/// When the oldest event was accepted.
pub(crate) fn oldest(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT accepted_ms FROM events ORDER BY id LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()
}

/// Removes an event; returns whether there was one.
pub(crate) fn remove(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("DELETE FROM events WHERE id = ?1")?
        .execute(params![id])
        .map(|removed| removed > 0)
}

/// Stores that another run is due later.
pub(crate) fn postpone(
    connection: &Connection,
    id: i64,
    runs: u32,
    due_ms: i64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE events SET runs = ?2, due_ms = ?3 WHERE id = ?1")?
        .execute(params![id, runs, due_ms])
        .map(drop)
}

/// Removes up to `most` of a function's events with ids below `before`; returns their number.
pub(crate) fn remove_some(
    connection: &Connection,
    function: &str,
    before: i64,
    most: u32,
) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "DELETE FROM events WHERE id IN
                 (SELECT id FROM events WHERE function = ?1 AND id < ?2 LIMIT ?3)",
        )?
        .execute(params![function, before, most])
}

/// An event invoke configuration. Its document is JSON that only [`super::config`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigRow {
    pub(crate) function: String,
    pub(crate) qualifier: String,
    pub(crate) document: String,
}

pub(crate) fn configs(connection: &Connection) -> rusqlite::Result<Vec<ConfigRow>> {
    let mut select = connection.prepare("SELECT function, qualifier, document FROM configs")?;
    let rows = select.query_map([], |row| {
        Ok(ConfigRow {
            function: text(row, 0)?.unwrap_or_default(),
            qualifier: text(row, 1)?.unwrap_or_default(),
            document: text(row, 2)?.unwrap_or_default(),
        })
    })?;
    rows.collect()
}

pub(crate) fn put_config(
    connection: &Connection,
    function: &str,
    qualifier: &str,
    document: &str,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO configs (function, qualifier, document) VALUES (?1, ?2, ?3)
             ON CONFLICT (function, qualifier) DO UPDATE SET document = excluded.document",
        )?
        .execute(params![function, qualifier, document])
        .map(drop)
}

pub(crate) fn remove_config(
    connection: &Connection,
    function: &str,
    qualifier: &str,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM configs WHERE function = ?1 AND qualifier = ?2")?
        .execute(params![function, qualifier])
        .map(drop)
}

/// Removes all configurations of a function.
pub(crate) fn remove_configs(connection: &Connection, function: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM configs WHERE function = ?1")?
        .execute(params![function])
        .map(drop)
}
