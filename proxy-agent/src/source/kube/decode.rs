//! JSON of the API server → objects. Only what is used is read: neither `managedFields` nor images of the Node are ever
//! kept. What can't be read costs itself alone.

use std::borrow::Cow;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::core::Status;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    model::SliceName,
    plan::ServiceName,
    source::{
        object::{ENDPOINT_SLICE, Found, IDENTITY, Key, NODE, SERVICE, metadata},
        schema::{self, Read, Scalars, Shape},
    },
};

/// Marks the bookmark that ends the list that a watch began with (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One kind of objects that are followed.
pub(super) trait Manifest {
    /// Its name.
    const KIND: &'static str;
    /// Where the API has it.
    const PATH: &'static str;
    /// Which of them are of use.
    const LABELS: Option<&'static str>;
    /// The fields that are used.
    const SHAPE: &'static Shape;
    /// The API's type.
    type Object: DeserializeOwned + Into<Found>;

    /// The key of an object, where its content is not known.
    fn key(namespace: &str, name: &str) -> Key;
}

/// Services.
#[derive(Debug)]
pub(super) struct Service;

/// `EndpointSlices`.
#[derive(Debug)]
pub(super) struct EndpointSlice;

/// Nodes.
#[derive(Debug)]
pub(super) struct Node;

impl Manifest for Service {
    const KIND: &'static str = "Service";
    const PATH: &'static str = "/api/v1/services";
    // Those of other proxies too: their ClusterIPs are theirs.
    const LABELS: Option<&'static str> = None;
    const SHAPE: &'static Shape = &SERVICE;
    type Object = core::Service;

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
    const SHAPE: &'static Shape = &ENDPOINT_SLICE;
    type Object = discovery::EndpointSlice;

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
    const SHAPE: &'static Shape = &NODE;
    type Object = core::Node;

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
    /// An event without an object that can be told from others, and why.
    Nameless(String),
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

/// Reads a line of a watch; an error means that it is none.
pub(super) fn line<T: Manifest>(bytes: &[u8]) -> Result<Line, String> {
    // Go replaces what is not UTF-8 in the same way.
    let text = String::from_utf8_lossy(bytes);
    let Event { kind, object } = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let object = object.map_or("null", RawValue::get);
    match &*kind {
        "ADDED" | "MODIFIED" => Ok(item::<T>(object).map_or_else(Line::Nameless, Line::Changed)),
        "DELETED" => Ok(item::<T>(object).map_or_else(Line::Nameless, Line::Removed)),
        "BOOKMARK" => Ok(bookmark(object).unwrap_or_else(Line::Nameless)),
        "ERROR" => serde_json::from_str(object)
            .map(|status| Line::Failed(Box::new(status)))
            .map_err(|error| error.to_string()),
        other => Err(format!("{other:?} is no type of a watch event")),
    }
}

fn bookmark(json: &str) -> Result<Line, String> {
    let Read { value, wrong, .. } = read(&IDENTITY, json)?;
    let version = metadata(&value, "resourceVersion");
    let annotation = &value["metadata"]["annotations"][INITIAL_EVENTS_END];
    Ok(Line::Bookmark {
        version: version
            .ok_or_else(|| wrong.unwrap_or_else(|| "a bookmark without version".to_owned()))?
            .to_owned(),
        complete: annotation == "true",
    })
}

/// Reads an object; an error means that it can't be told from others.
pub(super) fn item<T: Manifest>(json: &str) -> Result<Item, String> {
    let content = read(T::SHAPE, json);
    let identity = match &content {
        Ok(object) => Cow::Borrowed(&object.value),
        // A number without end, for example: the name may still be readable.
        Err(_) => Cow::Owned(read(&IDENTITY, json)?.value),
    };
    let version = metadata(&identity, "resourceVersion").unwrap_or_default();
    let (namespace, name) = (
        metadata(&identity, "namespace"),
        metadata(&identity, "name"),
    );
    let name = match (namespace, name) {
        (_, None) => {
            let wrong = content.map_or_else(Some, |object| object.wrong);
            return Err(wrong.unwrap_or_else(|| format!("a {} without a name", T::KIND)));
        }
        (None, Some(name)) => name.into(),
        (Some(namespace), Some(name)) => format!("{namespace}/{name}").into(),
    };
    Ok(Item {
        name,
        version: version.to_owned(),
        content: content.and_then(Found::of::<T::Object>),
    })
}

fn read(shape: &'static Shape, json: &str) -> Result<Read, String> {
    let mut from = serde_json::Deserializer::from_str(json);
    schema::read(shape, Scalars::Quoted, &mut from).map_err(|error| error.to_string())
}

/// What a list says beside its objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    /// `resourceVersion` of the list.
    pub version: String,
    /// Where the list goes on.
    pub next: Option<String>,
}

#[derive(Deserialize)]
struct List {
    metadata: Option<ListMetadata>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// Reads a list without its objects.
pub(super) fn page(bytes: &[u8]) -> Result<Page, String> {
    let list: List = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let ListMetadata {
        resource_version,
        next,
    } = list.metadata.ok_or("a list without metadata")?;
    Ok(Page {
        version: resource_version.unwrap_or_default(),
        next: next.filter(|next| !next.is_empty()),
    })
}
