//! Functions.
//!
//! * [`crud`]: create, list, read, change, delete
//! * [`validate`], [`fields`], [`logging_config`]: check the configuration in a request
//! * [`configuration`]: the configuration in a response
//! * [`tags`], [`fixed_settings`]: tags, and settings that can't be changed here

pub(super) mod configuration;
pub(super) mod crud;
pub(super) mod fields;
pub(super) mod fixed_settings;
pub(super) mod logging_config;
pub(super) mod tags;
pub(super) mod validate;
