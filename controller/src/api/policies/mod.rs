//! Resource policies, of functions and of layers. They are kept and shown; nothing is decided by them.

pub(super) mod function;
pub(super) mod layer;
pub(super) mod statement;
