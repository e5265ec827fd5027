//! Hearth's own API.
//!
//! * [`logs`]: a function's log, in pages or followed
//! * [`status`]: instances, status, pings, the end of a deploy
//! * [`probes`]: health, readiness, metrics

pub(super) mod logs;
pub(super) mod probes;
pub(super) mod status;
