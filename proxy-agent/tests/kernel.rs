//! From objects to the kernel's own maps: what is read back is what was planned, over restarts too, and what a change
//! costs. Root: it loads the programs, pinned in a folder of their own.

#![cfg(test)]

#[path = "scenario/agent.rs"]
mod agent;
#[path = "oracle/cluster.rs"]
mod cluster;
#[path = "kernel/cost.rs"]
mod cost;
#[path = "scenario/dump.rs"]
mod dump;
#[path = "kernel/failures.rs"]
mod failures;
#[path = "kernel/files.rs"]
mod files;
#[path = "kernel/fixture.rs"]
mod fixture;
#[path = "kernel/ids.rs"]
mod ids;
#[path = "kernel/latency.rs"]
mod latency;
#[path = "kernel/pinned.rs"]
mod pinned;
#[path = "kernel/plans.rs"]
mod plans;
#[path = "oracle/random.rs"]
mod random;
#[path = "kernel/random_changes.rs"]
mod random_changes;
#[path = "kernel/scenarios.rs"]
mod scenarios;
#[path = "scenario/story.rs"]
mod story;
#[path = "kernel/times.rs"]
mod times;
#[path = "oracle/world.rs"]
mod world;
