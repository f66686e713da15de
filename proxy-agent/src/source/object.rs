//! The objects that a source may give.

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::schema::{Read, Shape};
use crate::{
    convert::{self, Converted},
    model::{Change, EndpointSlice, Event, Node, ObjectRef, Problem, Service, SliceName},
    plan::ServiceName,
};

/// The fields that say which object it is, and which state of it.
pub(super) const IDENTITY: Shape = Shape::Fields(&[("metadata", METADATA)]);

const METADATA: Shape = Shape::Fields(&[
    ("name", Shape::Text),
    ("namespace", Shape::Text),
    ("labels", Shape::Texts),
    ("annotations", Shape::Texts),
    ("creationTimestamp", Shape::Time),
    ("deletionTimestamp", Shape::Time),
    ("resourceVersion", Shape::Text),
]);

/// The fields of a Service that are used.
pub(super) const SERVICE: Shape = Shape::Fields(&[
    ("metadata", METADATA),
    (
        "spec",
        Shape::Fields(&[
            ("type", Shape::Text),
            ("clusterIP", Shape::Text),
            ("clusterIPs", TEXTS),
            ("externalIPs", TEXTS),
            ("externalTrafficPolicy", Shape::Text),
            ("internalTrafficPolicy", Shape::Text),
            ("healthCheckNodePort", Shape::Integer),
            ("loadBalancerSourceRanges", TEXTS),
            ("sessionAffinity", Shape::Text),
            (
                "sessionAffinityConfig",
                Shape::Fields(&[(
                    "clientIP",
                    Shape::Fields(&[("timeoutSeconds", Shape::Integer)]),
                )]),
            ),
            (
                "ports",
                Shape::Parts(&Shape::Fields(&[
                    ("name", Shape::Text),
                    ("nodePort", Shape::Integer),
                    ("port", Shape::Integer),
                    ("protocol", Shape::Text),
                ])),
            ),
        ]),
    ),
    (
        "status",
        Shape::Fields(&[(
            "loadBalancer",
            Shape::Fields(&[(
                "ingress",
                Shape::Parts(&Shape::Fields(&[
                    ("ip", Shape::Text),
                    ("ipMode", Shape::Text),
                ])),
            )]),
        )]),
    ),
]);

/// The fields of an `EndpointSlice` that are used.
pub(super) const ENDPOINT_SLICE: Shape = Shape::Fields(&[
    ("metadata", METADATA),
    ("addressType", Shape::Text),
    (
        "endpoints",
        Shape::Parts(&Shape::Fields(&[
            ("addresses", TEXTS),
            (
                "conditions",
                Shape::Fields(&[
                    ("ready", Shape::Flag),
                    ("serving", Shape::Flag),
                    ("terminating", Shape::Flag),
                ]),
            ),
            (
                "hints",
                Shape::Fields(&[("forNodes", NAMES), ("forZones", NAMES)]),
            ),
            ("nodeName", Shape::Text),
            ("zone", Shape::Text),
        ])),
    ),
    (
        "ports",
        Shape::Parts(&Shape::Fields(&[
            ("name", Shape::Text),
            ("port", Shape::Integer),
            ("protocol", Shape::Text),
        ])),
    ),
]);

/// The fields of a Node that are used.
pub(super) const NODE: Shape = Shape::Fields(&[
    ("metadata", METADATA),
    (
        "spec",
        Shape::Fields(&[(
            "taints",
            Shape::Parts(&Shape::Fields(&[("key", Shape::Text)])),
        )]),
    ),
    (
        "status",
        Shape::Fields(&[(
            "addresses",
            Shape::Parts(&Shape::Fields(&[
                ("address", Shape::Text),
                ("type", Shape::Text),
            ])),
        )]),
    ),
]);

const TEXTS: Shape = Shape::List(&Shape::Text);
const NAMES: Shape = Shape::List(&Shape::Fields(&[("name", Shape::Text)]));

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
    /// The key of an object of a kind; `None`: the kind is not known.
    pub(super) fn of(kind: &str, mut namespace: Option<String>, name: String) -> Option<Self> {
        default_namespace(&mut namespace);
        let namespace = namespace.unwrap_or_default();
        match kind {
            "Node" => Some(Self::Node(name)),
            "Service" => Some(Self::Service(ServiceName { namespace, name })),
            "EndpointSlice" => Some(Self::Slice(SliceName { namespace, name })),
            _ => None,
        }
    }

    pub(super) fn object_ref(&self) -> ObjectRef {
        match self {
            Self::Node(name) => ObjectRef::plain("Node", name),
            Self::Service(n) => ObjectRef::service(n),
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

impl Found {
    /// Converts what was read of an object of the API's type `T`.
    pub(super) fn of<T: DeserializeOwned + Into<Self>>(read: Read) -> Result<Self, String> {
        if let Some(wrong) = read.wrong {
            return Err(wrong);
        }
        let object: T = serde_json::from_value(read.value).map_err(|error| error.to_string())?;
        let mut found: Self = object.into();
        let object = found.key.object_ref();
        let left_out = read.left_out.into_iter().map(|message| Problem {
            object: object.clone(),
            message,
        });
        found.problems.splice(0..0, left_out);
        Ok(found)
    }
}

/// A string of an object's metadata; none where it is absent or empty.
pub(super) fn metadata<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object["metadata"][field]
        .as_str()
        .filter(|text| !text.is_empty())
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
