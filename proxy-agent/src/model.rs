//! Services, `EndpointSlices` and the Node as the rest of the agent knows them: valid by construction, with
//! every default applied. Nothing below this line knows `k8s_openapi` or aya.

pub mod endpoint_slice;
pub mod node;
pub mod problem;
pub mod service;

pub use endpoint_slice::{Endpoint, EndpointPort, EndpointSlice, SliceName};
pub use node::Node;
pub use problem::{ObjectRef, Problem};
pub use service::{Service, ServicePort, Sharing, TrafficPolicy};

use crate::plan::ServiceName;

/// What a source says about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T, Name> {
    /// It exists, like this.
    Upsert(T),
    /// It is gone, or of a form that means nothing here. Repeating it does no harm.
    Delete(Name),
}

/// One step of a source's story. The order within a batch does not matter; the last word on an object counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A Service.
    Service(Change<Service, ServiceName>),
    /// An `EndpointSlice`.
    Slice(Change<EndpointSlice, SliceName>),
    /// A Node, by name. Nodes other than this one may be sent; they are ignored.
    Node(Change<Node, String>),
    /// The first full list is complete: what has not been named does not exist.
    Synced,
}
