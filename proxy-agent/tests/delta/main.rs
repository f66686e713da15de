//! From plans to maps: safe at every step, whatever changes, fails or restarts.

mod chance;
mod cost;
mod faults;
mod prefixes;
mod reader;
mod restart;
mod world;
