//! Bad input, in a sentence.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::{plan::ServiceName, text};

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
    /// A Service.
    pub fn service(name: &ServiceName) -> Self {
        Self::namespaced("Service", &name.namespace, &name.name)
    }

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
        write!(f, "{} ", text::plain(&self.kind, text::NAME))?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{}/", text::plain(namespace, text::NAME))?;
        }
        f.write_str(&text::plain(&self.name, text::NAME))
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
    #[serde(serialize_with = "serialize_plain")]
    pub message: String,
}

fn serialize_plain<S: Serializer>(message: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text::plain(message, text::SENTENCE))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = text::plain(&self.message, text::SENTENCE);
        write!(f, "{}: {message}", self.object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_short_line_in_every_form() {
        let hostile = format!("web\n\u{1b}[2J\u{202e}{}", "x".repeat(100_000));
        let problem = Problem {
            object: ObjectRef::namespaced("Service", &hostile, &hostile),
            message: hostile.clone(),
        };
        let json = serde_json::to_value(&problem).unwrap();
        let texts =
            [&json["object"], &json["message"]].map(|text| text.as_str().unwrap().to_owned());
        for text in [problem.to_string()].iter().chain(&texts) {
            assert!(text.len() < 2000, "{}", text.len());
            assert!(text.contains("left out"));
            assert!(!text.contains(['\n', '\u{1b}', '\u{202e}']), "{text:?}");
        }
    }
}
