//! Bad input, in a sentence.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a [`Problem`] is about; shown as `Service default/web`, `Node worker-1`, `file services.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub struct ObjectRef {
    /// Kind of the object, or what it is otherwise: `file`.
    pub kind: String,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// A namespaced object.
    pub fn namespaced(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        }
    }

    /// An object without namespace, or a file.
    pub fn plain(kind: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: None,
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl From<ObjectRef> for String {
    fn from(object: ObjectRef) -> Self {
        object.to_string()
    }
}

impl From<String> for ObjectRef {
    fn from(text: String) -> Self {
        let (kind, name) = text.split_once(' ').unwrap_or(("", &text));
        match name.split_once('/') {
            // Of files and folders the path is the name.
            Some((namespace, name)) if kind.starts_with(char::is_uppercase) => {
                Self::namespaced(kind, namespace, name)
            }
            _ => Self::plain(kind, name),
        }
    }
}

/// A part of the input that was left out, and why. The rest goes on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about.
    pub object: ObjectRef,
    /// A sentence that says what is wrong and what becomes of it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)
    }
}
