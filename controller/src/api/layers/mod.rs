//! Layers.
//!
//! * [`names`]: the ways of naming a layer, and the layers that a function uses
//! * [`compatible`]: runtimes and architectures that a layer says it is for
//! * [`versions`]: the operations

pub(super) mod compatible;
pub(super) mod names;
pub(super) mod versions;
