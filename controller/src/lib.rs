//! Hearth's controller: Lambda's HTTP API in front of functions that run in microVMs.
//!
//! Data flows one way: [`api`] parses a request, `pool` finds or starts an instance, `instance`
//! talks to its sandbox process and to the agent in its guest. `registry` stores the functions, `deploy`
//! turns their packages into snapshots, `events` queues the invocations whose clients do not wait.
//!
//! The controller does not link the VMM: each microVM is a `hearth-sandbox` process, which ends when its
//! controller ends.

pub mod api;
mod assembly;
pub mod auth;
pub mod backup;
mod connections;
mod data_dir;
mod deploy;
mod events;
mod function;
mod function_url;
mod hex;
mod hop_by_hop;
mod instance;
mod limits;
mod locks;
mod logs;
mod metrics;
mod pool;
mod process_log;
mod process_metrics;
mod registry;
mod repoll;
mod revival;
mod serve;
mod settings;
mod sqlite;
mod web_pages;

pub use assembly::StartError;
pub use data_dir::DataDirError;
pub use events::EventsError;
pub use hop_by_hop::HopByHop;
pub use limits::CpuLimit;
pub use process_log::{LogError, LogFormat, LogSettings};
pub use registry::{KeyError, NotDecrypted, RegistryError, find_damage};
pub use serve::{ServeError, serve};
pub use settings::{Settings, SettingsError, address};
pub use web_pages::{PageCheck, Refused, is_for_function_url};

/// This build's version, as in `/hearth/v1/status` and the log.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
