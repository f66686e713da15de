//! Bad input, in a sentence.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a [`Problem`] is about, as it is shown: `Service default/web`, `Node worker-1`, `file services.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectRef(pub String);

impl ObjectRef {
    /// A namespaced object.
    pub fn namespaced(kind: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{kind} {namespace}/{name}"))
    }

    /// An object without namespace, or a file.
    pub fn plain(kind: &str, name: &str) -> Self {
        Self(format!("{kind} {name}"))
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
