//! Function logs: what functions write, and Lambda's lines around it.
//!
//! * [`lines`]: the texts of `START`, `END`, `REPORT` and `INIT_REPORT`.
//! * [`platform`]: these, or the events that stand for them in the JSON format.
//! * [`tail`]: the last 4 KB of one invocation's log, for `X-Amz-Log-Result`.
//! * [`text`]: what functions wrote, cut into records.
//! * [`record`]: what is stored, and which of it a reader wants.
//! * [`store`]: the one writer, off the invocations' way, and its face.
//! * [`segments`]: a log's files, bounded in size and age.
//! * [`page`] and [`follow`]: reading, a page at a time and as it comes.

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
