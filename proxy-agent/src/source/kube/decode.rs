//! JSON of the API server → objects. Only what is used is read: neither `managedFields` nor images of the Node are ever
//! kept. What can't be read costs itself alone.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::core::Status;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    model::SliceName,
    plan::ServiceName,
    source::object::{Found, Key},
};

/// Marks the bookmark that ends the list that a watch began with (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

type Map = BTreeMap<String, String>;

/// One kind of objects that are followed.
pub(super) trait Manifest: DeserializeOwned {
    /// Its name.
    const KIND: &'static str;
    /// Where the API has it.
    const PATH: &'static str;
    /// Which of them are of use.
    const LABELS: Option<&'static str>;

    /// What the object says about itself.
    fn metadata(&self) -> &Metadata;

    /// Converts it.
    fn found(self) -> Found;

    /// The key of an object, where its content is not known.
    fn key(namespace: &str, name: &str) -> Key;
}

/// The fields of `metadata` that are used.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    labels: Option<Map>,
    annotations: Option<Map>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    resource_version: Option<String>,
}

/// A Service.
#[derive(Deserialize)]
pub(super) struct Service {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<core::ServiceSpec>,
    status: Option<core::ServiceStatus>,
}

/// An `EndpointSlice`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSlice {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    address_type: String,
    endpoints: Option<Vec<discovery::Endpoint>>,
    ports: Option<Vec<discovery::EndpointPort>>,
}

/// A Node.
#[derive(Deserialize)]
pub(super) struct Node {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<core::NodeSpec>,
    status: Option<NodeStatus>,
}

#[derive(Deserialize)]
struct NodeStatus {
    addresses: Option<Vec<core::NodeAddress>>,
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        let Metadata {
            name,
            namespace,
            labels,
            annotations,
            creation_timestamp,
            deletion_timestamp,
            resource_version: _,
        } = metadata;
        Self {
            name,
            namespace,
            labels,
            annotations,
            creation_timestamp,
            deletion_timestamp,
            ..Self::default()
        }
    }
}

impl Manifest for Service {
    const KIND: &'static str = "Service";
    const PATH: &'static str = "/api/v1/services";
    // Those of other proxies too: their ClusterIPs are theirs.
    const LABELS: Option<&'static str> = None;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn found(self) -> Found {
        core::Service {
            metadata: self.metadata.into(),
            spec: self.spec,
            status: self.status,
        }
        .into()
    }

    fn key(namespace: &str, name: &str) -> Key {
        Key::Service(ServiceName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl Manifest for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";
    const PATH: &'static str = "/apis/discovery.k8s.io/v1/endpointslices";
    const LABELS: Option<&'static str> =
        Some("kubernetes.io/service-name,!service.kubernetes.io/headless");

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn found(self) -> Found {
        discovery::EndpointSlice {
            metadata: self.metadata.into(),
            address_type: self.address_type,
            endpoints: self.endpoints,
            ports: self.ports,
        }
        .into()
    }

    fn key(namespace: &str, name: &str) -> Key {
        Key::Slice(SliceName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl Manifest for Node {
    const KIND: &'static str = "Node";
    const PATH: &'static str = "/api/v1/nodes";
    const LABELS: Option<&'static str> = None;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn found(self) -> Found {
        core::Node {
            metadata: self.metadata.into(),
            spec: self.spec,
            status: self.status.map(|status| core::NodeStatus {
                addresses: status.addresses,
                ..core::NodeStatus::default()
            }),
        }
        .into()
    }

    fn key(_: &str, name: &str) -> Key {
        Key::Node(name.to_owned())
    }
}

/// One object as the API server gave it.
#[derive(Debug)]
pub(super) struct Item {
    /// `namespace/name`; the name alone, where there is no namespace.
    pub name: Box<str>,
    /// `resourceVersion`.
    pub version: String,
    /// What it is, or why that can't be read.
    pub content: Result<Found, String>,
}

/// What every object has.
#[derive(Deserialize)]
struct Header {
    metadata: Identity,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Identity {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    annotations: Option<Map>,
}

impl Item {
    fn readable<T: Manifest>(object: T) -> Result<Self, String> {
        let Metadata {
            name,
            namespace,
            resource_version,
            ..
        } = object.metadata();
        Ok(Self {
            name: full_name::<T>(namespace.as_deref(), name.as_deref())?,
            version: resource_version.clone().unwrap_or_default(),
            content: Ok(object.found()),
        })
    }

    fn unreadable<T: Manifest>(header: Header, reason: String) -> Result<Self, String> {
        let Identity {
            name,
            namespace,
            resource_version,
            ..
        } = header.metadata;
        Ok(Self {
            name: full_name::<T>(namespace.as_deref(), name.as_deref())?,
            version: resource_version.unwrap_or_default(),
            content: Err(reason),
        })
    }
}

fn full_name<T: Manifest>(namespace: Option<&str>, name: Option<&str>) -> Result<Box<str>, String> {
    match (namespace, name) {
        (_, None | Some("")) => Err(format!("a {} without a name", T::KIND)),
        (None | Some(""), Some(name)) => Ok(name.into()),
        (Some(namespace), Some(name)) => Ok(format!("{namespace}/{name}").into()),
    }
}

/// One line of a watch.
#[derive(Debug)]
pub(super) enum Line {
    /// An object is there, or is another.
    Changed(Item),
    /// It is gone, or no longer of use here.
    Removed(Item),
    /// All up to this version was said.
    Bookmark {
        /// `resourceVersion`.
        version: String,
        /// Whether the list that the watch began with is complete.
        complete: bool,
    },
    /// The server ends the watch.
    Failed(Box<Status>),
    /// An object that can't be told from others, and why.
    Nameless(String),
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Of<T> {
    object: T,
}

/// Reads a line of a watch; an error means that it is none.
pub(super) fn line<T: Manifest>(bytes: &[u8]) -> Result<Line, String> {
    let Kind { kind } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match &*kind {
        "ADDED" | "MODIFIED" => Ok(item::<T>(bytes).map_or_else(Line::Nameless, Line::Changed)),
        "DELETED" => Ok(item::<T>(bytes).map_or_else(Line::Nameless, Line::Removed)),
        "BOOKMARK" => {
            let Header { metadata } = object(bytes)?;
            let annotations = metadata.annotations.unwrap_or_default();
            Ok(Line::Bookmark {
                version: metadata
                    .resource_version
                    .ok_or("a bookmark without version")?,
                complete: annotations
                    .get(INITIAL_EVENTS_END)
                    .is_some_and(|v| v == "true"),
            })
        }
        "ERROR" => object(bytes).map(Box::new).map(Line::Failed),
        other => Err(format!("{other:?} is no type of a watch event")),
    }
}

fn object<O: DeserializeOwned>(bytes: &[u8]) -> Result<O, String> {
    match serde_json::from_slice(bytes) {
        Ok(Of { object }) => Ok(object),
        Err(error) => Err(error.to_string()),
    }
}

fn item<T: Manifest>(bytes: &[u8]) -> Result<Item, String> {
    match object::<T>(bytes) {
        Ok(object) => Item::readable(object),
        Err(error) => Item::unreadable::<T>(object(bytes)?, error),
    }
}

/// A list, or a part of one.
#[derive(Debug)]
pub(super) struct Page {
    /// The objects; why not, where one has no name.
    pub items: Vec<Result<Item, String>>,
    /// `resourceVersion` of the list.
    pub version: String,
    /// Where the list goes on.
    pub next: Option<String>,
}

#[derive(Deserialize)]
struct List<I> {
    metadata: ListMetadata,
    items: Option<Vec<I>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// An object that is converted as soon as it is read: the list never stands in memory as objects.
struct Converted<T>(Result<Item, String>, PhantomData<T>);

impl<'de, T: Manifest> Deserialize<'de> for Converted<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(|object| Self(Item::readable(object), PhantomData))
    }
}

/// Reads a list.
pub(super) fn page<T: Manifest>(bytes: &[u8]) -> Result<Page, String> {
    let (metadata, items) = if let Ok(list) = serde_json::from_slice::<List<Converted<T>>>(bytes) {
        let items = list.items.into_iter().flatten();
        (list.metadata, items.map(|item| item.0).collect())
    } else {
        // Once more, so that one object costs itself alone.
        let list: List<Value> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let items = list.items.into_iter().flatten();
        let items = items.map(|item| from_value::<T>(&item)).collect();
        (list.metadata, items)
    };
    Ok(Page {
        items,
        version: metadata.resource_version.unwrap_or_default(),
        next: metadata.next.filter(|next| !next.is_empty()),
    })
}

fn from_value<T: Manifest>(value: &Value) -> Result<Item, String> {
    match T::deserialize(value) {
        Ok(object) => Item::readable(object),
        Err(error) => {
            let header = Header::deserialize(value).map_err(|error| error.to_string())?;
            Item::unreadable::<T>(header, error.to_string())
        }
    }
}
