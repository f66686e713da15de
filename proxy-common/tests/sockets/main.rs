//! Tests of the socket hooks: decisions, and the state that they keep.

mod calls;
mod memory;
mod node;
