//! The rules that keep one holder, as pure files: time and facts come in as arguments, decisions go out.

pub mod bootstrap;
pub mod gate;
pub mod hold;
pub mod lateness;
pub mod planted;
pub mod preference;
pub mod promise;
pub mod quiet;
pub mod rank;
pub mod successor;
pub mod turns;
