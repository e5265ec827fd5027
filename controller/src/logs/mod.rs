//! Function logs: what functions write, and Lambda's lines around it.
//!
//! * [`lines`]: the texts of `START`, `END`, `REPORT` and `INIT_REPORT`.
//! * [`tail`]: the last 4 KB of one invocation's log, for `X-Amz-Log-Result`.
//! * [`store`]: records on disk, bounded for each function, written off the invocations' way.

pub(crate) mod lines;
mod store;
mod tail;

pub(crate) use store::{Kind, LogStore, Query};
pub(crate) use tail::Tail;
