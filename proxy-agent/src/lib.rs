//! The agent: keeps the maps equal to what Services, `EndpointSlices` and the Node mean.

pub mod dataplane;
pub mod maps;
pub mod plan;
