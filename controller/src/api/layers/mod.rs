//! Layers.
//!
//! * [`names`]: the forms of a layer's name, and the layers of a function
//! * [`compatible`]: the runtimes and architectures that a layer lists as compatible
//! * [`versions`]: the operations

pub(super) mod compatible;
pub(super) mod names;
pub(super) mod versions;
