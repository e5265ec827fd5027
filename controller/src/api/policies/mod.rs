//! Resource policies of functions and layers. They are stored and returned, but not enforced.

pub(super) mod function;
pub(super) mod layer;
pub(super) mod statement;
