//! Who leads. openraft runs behind this module; no other module names it.

pub mod disk;
pub mod runtime;
pub mod types;
