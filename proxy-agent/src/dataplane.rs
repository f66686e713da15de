//! The kernel side of the agent: loading, attaching, pinning, and map contents.

pub mod abort;
pub mod attach;
pub mod audit;
pub mod clock;
pub mod foreign;
pub mod gc;
pub mod load;
pub mod log;
pub mod maps;
pub mod open;
pub mod pin;
pub mod probe;
pub mod remove;
pub mod settings;
pub mod sys;
pub mod xdp;
