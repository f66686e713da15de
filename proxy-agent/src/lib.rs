//! The agent: keeps the maps equal to what Services, `EndpointSlices` and the Node mean.

pub mod plan;
