//! Text → documents → objects.

use std::{ffi::OsStr, fmt, path::Path};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::object::Found;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Yaml,
    Json,
}

impl Syntax {
    /// By the file's name; `None`: it is no manifest.
    pub(super) fn of(name: &str) -> Option<Self> {
        match Path::new(name).extension().and_then(OsStr::to_str) {
            _ if name.starts_with('.') => None,
            Some("yaml" | "yml") => Some(Self::Yaml),
            Some("json") => Some(Self::Json),
            _ => None,
        }
    }
}

/// A document that can't be read.
#[derive(Debug)]
pub(super) struct DocumentError {
    /// Which of the file, counted from 1.
    number: usize,
    message: String,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}: {}", self.number, self.message)
    }
}

/// What an object says about itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    name: Option<String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Option<Vec<Value>>,
}

/// One form in which an object is given.
trait Form {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, String>;
}

/// The documents of a file, each with its objects.
pub(super) fn parse(syntax: Syntax, bytes: &[u8]) -> Vec<Result<Vec<Found>, DocumentError>> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return vec![Err(DocumentError {
            number: 1,
            message: "is not UTF-8".to_owned(),
        })];
    };
    let text = text.trim_start_matches('\u{feff}');
    let found: Vec<_> = match syntax {
        Syntax::Json => serde_json::Deserializer::from_str(text)
            .into_iter::<Value>()
            .map(|value| objects(&value.map_err(|error| error.to_string())?))
            .collect(),
        Syntax::Yaml => yaml_documents(text).map(|yaml| objects(&yaml)).collect(),
    };
    found
        .into_iter()
        .enumerate()
        .map(|(index, result)| {
            result.map_err(|message| DocumentError {
                number: index + 1,
                message,
            })
        })
        .collect()
}

fn objects(form: &impl Form) -> Result<Vec<Found>, String> {
    let header: Header = form.decode()?;
    let Some(kind) = header.kind.filter(|kind| !kind.is_empty()) else {
        return Err("is no Kubernetes object: it has no kind".to_owned());
    };
    let version = header.api_version.unwrap_or_default();
    let name = header.metadata.and_then(|metadata| metadata.name);
    if let Some(item_kind) = kind.strip_suffix("List") {
        let list: List = form.decode()?;
        return items(list, &version, item_kind);
    }
    let named = || {
        name.as_ref()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| format!("{kind} without metadata.name"))
    };
    let found = match (version.as_str(), kind.as_str()) {
        ("v1", "Service") => {
            named()?;
            form.decode::<core::Service>()?.into()
        }
        ("v1", "Node") => {
            named()?;
            form.decode::<core::Node>()?.into()
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            named()?;
            form.decode::<discovery::EndpointSlice>()?.into()
        }
        (_, "Service" | "Node" | "EndpointSlice") => {
            return Err(format!("{kind} of apiVersion {version:?} is not known"));
        }
        _ => return Ok(Vec::new()),
    };
    Ok(vec![found])
}

/// Items of a typed list need not name their kind.
fn items(list: List, version: &str, kind: &str) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    for (index, mut item) in list.items.into_iter().flatten().enumerate() {
        if let (Value::Object(fields), false) = (&mut item, kind.is_empty()) {
            for (field, value) in [("apiVersion", version), ("kind", kind)] {
                fields
                    .entry(field)
                    .or_insert_with(|| Value::String(value.to_owned()));
            }
        }
        found.extend(objects(&item).map_err(|error| format!("items[{index}]: {error}"))?);
    }
    Ok(found)
}

impl Form for Value {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        T::deserialize(self).map_err(|error| error.to_string())
    }
}

/// A YAML document and the number of lines before it.
struct Yaml<'a> {
    text: &'a str,
    line: usize,
}

impl Form for Yaml<'_> {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        let options = || {
            serde_saphyr::options! {
                // Large lists are fine; aliases stay limited.
                budget: None,
                with_snippet: false,
            }
        };
        serde_saphyr::from_str_with_options(self.text, options()).or_else(|_| {
            // Once more at its place in the file, so that the message has the right line.
            let padded = "\n".repeat(self.line) + self.text;
            serde_saphyr::from_str_with_options(&padded, options())
                .map_err(|error| error.to_string())
        })
    }
}

/// Splits at document markers (YAML 1.2 §9.1); documents without content are none.
fn yaml_documents(text: &str) -> impl Iterator<Item = Yaml<'_>> {
    let mut starts = vec![(0, 0)];
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.strip_prefix("---");
        if marker.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            starts.push((offset, number));
        }
        offset += line.len();
    }
    let ends: Vec<usize> = starts
        .iter()
        .skip(1)
        .map(|(offset, _)| *offset)
        .chain([text.len()])
        .collect();
    starts
        .into_iter()
        .zip(ends)
        .map(|((start, line), end)| Yaml {
            text: &text[start..end],
            line,
        })
        .filter(|yaml| has_content(yaml.text))
}

fn has_content(document: &str) -> bool {
    document.lines().any(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !(line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "...")
    })
}
