//! The objects that a source may give.

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};

use crate::{
    convert::{self, Converted},
    model::{Change, EndpointSlice, Event, Node, ObjectRef, Problem, Service, SliceName},
    plan::ServiceName,
};

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Node(String),
    Service(ServiceName),
    Slice(SliceName),
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Node(Node),
    Service(Service),
    Slice(EndpointSlice),
}

/// What became of one object of a document.
#[derive(Debug)]
pub(super) struct Found {
    pub key: Key,
    /// `None`: it is of no use here.
    pub value: Option<Object>,
    pub problems: Vec<Problem>,
}

impl Key {
    pub(super) fn object_ref(&self) -> ObjectRef {
        match self {
            Self::Node(name) => ObjectRef::plain("Node", name),
            Self::Service(n) => ObjectRef::namespaced("Service", &n.namespace, &n.name),
            Self::Slice(n) => ObjectRef::namespaced("EndpointSlice", &n.namespace, &n.name),
        }
    }

    pub(super) fn delete(self) -> Event {
        match self {
            Self::Node(name) => Event::Node(Change::Delete(name)),
            Self::Service(name) => Event::Service(Change::Delete(name)),
            Self::Slice(name) => Event::Slice(Change::Delete(name)),
        }
    }
}

impl Object {
    pub(super) fn upsert(self) -> Event {
        match self {
            Self::Node(node) => Event::Node(Change::Upsert(node)),
            Self::Service(service) => Event::Service(Change::Upsert(service)),
            Self::Slice(slice) => Event::Slice(Change::Upsert(slice)),
        }
    }
}

impl From<core::Node> for Found {
    fn from(object: core::Node) -> Self {
        let Converted { value, problems } = convert::node(&object);
        Self {
            key: Key::Node(value.name.clone()),
            value: Some(Object::Node(value)),
            problems,
        }
    }
}

impl From<core::Service> for Found {
    fn from(mut object: core::Service) -> Self {
        default_namespace(&mut object.metadata.namespace);
        let Converted { value, problems } = convert::service(&object);
        Self {
            key: Key::Service(value.name.clone()),
            value: Some(Object::Service(value)),
            problems,
        }
    }
}

impl From<discovery::EndpointSlice> for Found {
    fn from(mut object: discovery::EndpointSlice) -> Self {
        default_namespace(&mut object.metadata.namespace);
        let Converted { value, problems } = convert::endpoint_slice(&object);
        let (key, value) = match value {
            Change::Upsert(slice) => (Key::Slice(slice.name.clone()), Some(Object::Slice(slice))),
            Change::Delete(name) => (Key::Slice(name), None),
        };
        Self {
            key,
            value,
            problems,
        }
    }
}

/// As `kubectl apply` does.
fn default_namespace(namespace: &mut Option<String>) {
    if namespace.as_ref().is_none_or(String::is_empty) {
        *namespace = Some("default".to_owned());
    }
}
