//! The commands, one file each. `dev` and `doctor` have folders of
//! their own beside this one.

pub(crate) mod backup;
pub(crate) mod deploy;
pub(crate) mod invoke;
pub(crate) mod keys;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod rm;
pub(crate) mod serve;
