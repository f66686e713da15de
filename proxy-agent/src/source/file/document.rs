//! Text → documents → objects.

use std::{ffi::OsStr, path::Path};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{source::object::Found, text};

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

/// The longest that an error is told, in bytes: more is said behind it.
const LONGEST_ERROR: usize = 800;
/// Errors of a file that are told one by one.
const TOLD: usize = 5;

/// What became of a file.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub found: Vec<Found>,
    /// Documents, and items of lists, that can't be read: which, and why. The first of them only.
    pub errors: Vec<String>,
    /// How many more there are.
    pub more_errors: usize,
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

/// Reads a file.
pub(super) fn parse(syntax: Syntax, bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let Ok(text) = std::str::from_utf8(bytes) else {
        parsed.fail("it is not UTF-8");
        return parsed;
    };
    let text = text.trim_start_matches('\u{feff}');
    match syntax {
        Syntax::Json => {
            let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
            for (index, value) in values.enumerate() {
                let place = format!("document {}", index + 1);
                match value {
                    Ok(value) => parsed.add(&place, &value),
                    Err(error) => parsed.fail(&format!("{place}: {error}")),
                }
            }
        }
        Syntax::Yaml => {
            for (index, yaml) in yaml_documents(text).enumerate() {
                parsed.add(&format!("document {}", index + 1), &yaml);
            }
        }
    }
    parsed
}

impl Parsed {
    fn add(&mut self, place: &str, form: &impl Form) {
        if let Err(error) = self.add_object(place, form) {
            self.fail(&format!("{place}: {error}"));
        }
    }

    /// Notes an error, which may quote the file.
    fn fail(&mut self, error: &str) {
        if self.errors.len() < TOLD {
            let error = text::plain(error, LONGEST_ERROR);
            self.errors.push(error.into_owned());
        } else {
            self.more_errors += 1;
        }
    }

    fn add_object(&mut self, place: &str, form: &impl Form) -> Result<(), String> {
        let header: Header = form.decode()?;
        let Some(kind) = header.kind.filter(|kind| !kind.is_empty()) else {
            return Err("it has no kind, so it is no Kubernetes object".to_owned());
        };
        let version = header.api_version.unwrap_or_default();
        if let Some(item_kind) = kind.strip_suffix("List") {
            self.add_items(place, form.decode()?, &version, item_kind);
            return Ok(());
        }
        let name = header.metadata.and_then(|metadata| metadata.name);
        let is_named = name.is_some_and(|name| !name.is_empty());
        let found: Found = match (version.as_str(), kind.as_str()) {
            ("v1", "Service" | "Node") | ("discovery.k8s.io/v1", "EndpointSlice") if !is_named => {
                return Err(format!("{kind} without metadata.name"));
            }
            ("v1", "Service") => form.decode::<core::Service>()?.into(),
            ("v1", "Node") => form.decode::<core::Node>()?.into(),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                form.decode::<discovery::EndpointSlice>()?.into()
            }
            (_, "Service" | "Node" | "EndpointSlice") => {
                return Err(format!("{kind} of apiVersion {version:?} is not known"));
            }
            _ => return Ok(()),
        };
        self.found.push(found);
        Ok(())
    }

    /// Items of a typed list need not name their kind.
    fn add_items(&mut self, place: &str, list: List, version: &str, kind: &str) {
        for (index, mut item) in list.items.into_iter().flatten().enumerate() {
            if let (Value::Object(fields), false) = (&mut item, kind.is_empty()) {
                for (field, value) in [("apiVersion", version), ("kind", kind)] {
                    fields
                        .entry(field)
                        .or_insert_with(|| Value::String(value.to_owned()));
                }
            }
            self.add(&format!("{place}, items[{index}]"), &item);
        }
    }
}

impl Form for Value {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        T::deserialize(self).map_err(|error| error.to_string())
    }
}

/// Bytes of text that aliases may add to any document.
const SMALL: usize = 64 << 10;

/// A YAML document and the number of lines before it.
struct Yaml<'a> {
    text: &'a str,
    line: usize,
}

impl Form for Yaml<'_> {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        let options = serde_saphyr::options! {
            // Large lists are fine. Depth, which takes the reader's stack, and what aliases add stay limited: without aliases
            // a document has no more text than it has bytes, or half as much again where escapes stand for more.
            budget: serde_saphyr::budget! {
                max_events: usize::MAX,
                max_nodes: usize::MAX,
                max_total_scalar_bytes: 2 * self.text.len() + SMALL,
            },
            alias_limits: serde_saphyr::alias_limits! {
                max_total_replayed_events: 100_000,
            },
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options(self.text, options).map_err(|error| {
            // The line of the file, not of the document.
            error.render_with_options(serde_saphyr::render_options! {
                line_offset: self.line as u64,
            })
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
