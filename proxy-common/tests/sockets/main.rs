//! The socket hooks: what becomes of a call, and what is remembered of it.

mod calls;
mod memory;
mod node;
