//! Functions.
//!
//! * [`crud`]: create, list, read, change, delete
//! * [`validate`], [`fields`], [`logging_config`]: the configuration that comes in
//! * [`configuration`]: the configuration that is shown
//! * [`tags`], [`fixed_settings`]: what else a function has

pub(super) mod configuration;
pub(super) mod crud;
pub(super) mod fields;
pub(super) mod fixed_settings;
pub(super) mod logging_config;
pub(super) mod tags;
pub(super) mod validate;
