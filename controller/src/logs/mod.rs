//! Function logs: the output of functions, and Lambda's lines about their invocations.
//!
//! * [`lines`]: the texts of `START`, `END`, `REPORT` and `INIT_REPORT`.
//! * [`platform`]: these lines, or the same as platform events in the JSON format.
//! * [`tail`]: the last 4 KB of one invocation's log, for `X-Amz-Log-Result`.
//! * [`text`]: splits a function's output into records.
//! * [`record`]: a stored record, and the filters of readers.
//! * [`store`]: appends records through one writer thread, so that invocations never wait.
//! * [`segments`]: a log's files, with a maximum size and age.
//! * [`page`] and [`follow`]: reading in pages, and following a log as it grows.

mod follow;
pub(crate) mod lines;
mod page;
mod platform;
mod record;
mod segments;
mod store;
mod tail;
mod text;

pub(crate) use follow::{Follower, News};
pub(crate) use platform::PlatformEvent;
pub(crate) use record::{Filter, Kind, MAX_PAGE, PAGE, Query, Record};
pub(crate) use segments::Kept;
pub(crate) use store::{LogStore, Origin};
pub(crate) use tail::Tail;
pub(crate) use text::Text;
