//! Builders for the objects that agents watch. Each converts to JSON, which is valid YAML.

mod node;
mod service;
mod slice;

pub use node::NodeObject;
pub use service::Service;
pub use slice::{Endpoint, Slice};
