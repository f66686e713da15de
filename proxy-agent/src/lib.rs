//! The agent: keeps the maps equal to what Services, `EndpointSlices` and the Node mean.

pub mod app;
pub mod claims;
pub mod cli;
pub mod commands;
pub mod config;
pub mod convert;
pub mod dataplane;
pub mod delta;
pub mod devices;
pub mod health;
pub mod maps;
pub mod metrics;
pub mod model;
pub mod monitor;
pub mod netfilter;
pub mod plan;
pub mod planner;
pub mod policy;
pub mod programmer;
pub mod report;
pub mod serve;
pub mod source;
pub mod store;
pub mod table_maker;
pub mod telemetry;
pub mod view;
