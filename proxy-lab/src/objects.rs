//! Builders of the objects that agents follow. Each is a value of its own and becomes JSON, which is YAML.

mod node;
mod service;
mod slice;

pub use node::NodeObject;
pub use service::Service;
pub use slice::{Endpoint, Slice};
