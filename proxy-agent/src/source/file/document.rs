//! Text → documents → objects.

use std::{ffi::OsStr, path::Path};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    source::{
        object::{ENDPOINT_SLICE, Found, Key, NODE, SERVICE, metadata},
        schema::{self, Read, Scalars, Shape},
    },
    text,
};

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
    /// Objects that can't be used.
    pub refused: Vec<Refused>,
    /// Documents, and items of lists, that can't be read: which, and why. The first of them only.
    pub errors: Vec<String>,
    /// How many more there are.
    pub more_errors: usize,
}

/// An object with a name that can't be used.
#[derive(Debug)]
pub(super) struct Refused {
    /// Which.
    pub object: Key,
    /// Where it is in the file.
    pub place: String,
    /// Why.
    pub reason: String,
}

/// What an object says about itself.
const HEADER: Shape = Shape::Fields(&[
    ("apiVersion", Shape::Text),
    ("kind", Shape::Text),
    (
        "metadata",
        Shape::Fields(&[("name", Shape::Text), ("namespace", Shape::Text)]),
    ),
]);

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Option<Vec<Value>>,
}

/// One form in which an object is given.
trait Form {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, String>;

    /// Reads the fields of a shape.
    fn read(&self, shape: &'static Shape) -> Result<Read, String>;
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
        let header = form.read(&HEADER)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&header.value["kind"]);
        if kind.is_empty() {
            let missing = || "it has no kind, so it is no Kubernetes object".to_owned();
            return Err(header.wrong.unwrap_or_else(missing));
        }
        let version = text(&header.value["apiVersion"]);
        if let Some(item_kind) = kind.strip_suffix("List") {
            self.add_items(place, form.decode()?, &version, item_kind);
            return Ok(());
        }
        let name = metadata(&header.value, "name");
        let found = match (version.as_str(), kind.as_str(), name) {
            ("v1", "Service" | "Node", None) | ("discovery.k8s.io/v1", "EndpointSlice", None) => {
                let missing = || format!("{kind} without metadata.name");
                return Err(header.wrong.unwrap_or_else(missing));
            }
            ("v1", "Service", _) => Found::of::<core::Service>(form.read(&SERVICE)?),
            ("v1", "Node", _) => Found::of::<core::Node>(form.read(&NODE)?),
            ("discovery.k8s.io/v1", "EndpointSlice", _) => {
                Found::of::<discovery::EndpointSlice>(form.read(&ENDPOINT_SLICE)?)
            }
            (_, "Service" | "Node" | "EndpointSlice", _) => {
                return Err(format!("{kind} of apiVersion {version:?} is not known"));
            }
            _ => return Ok(()),
        };
        match found {
            Ok(found) => self.found.push(found),
            Err(reason) => {
                let namespace = metadata(&header.value, "namespace").map(str::to_owned);
                let key = Key::of(&kind, namespace, name.unwrap_or_default().to_owned());
                self.refused.extend(key.map(|object| Refused {
                    object,
                    place: place.to_owned(),
                    reason,
                }));
            }
        }
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

    fn read(&self, shape: &'static Shape) -> Result<Read, String> {
        schema::read(shape, Scalars::Quoted, self).map_err(|error| error.to_string())
    }
}

/// Bytes of text that aliases may add to any document.
const SMALL: usize = 64 << 10;

/// A YAML document and the number of lines before it.
struct Yaml<'a> {
    text: &'a str,
    line: usize,
}

impl Yaml<'_> {
    fn parse<T>(
        &self,
        parse: impl FnOnce(&str, serde_saphyr::Options) -> Result<T, serde_saphyr::Error>,
    ) -> Result<T, String> {
        parse(self.text, self.options()).map_err(|error| {
            // The line of the file, not of the document.
            error.render_with_options(serde_saphyr::render_options! {
                line_offset: self.line as u64,
            })
        })
    }

    /// Large lists are fine. Depth, which takes the reader's stack, and the text that aliases add stay limited: without aliases
    /// a document has no more text than it has bytes, or half as much again where escapes stand for more.
    fn options(&self) -> serde_saphyr::Options {
        serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_events: usize::MAX,
                max_nodes: usize::MAX,
                max_total_scalar_bytes: 2 * self.text.len() + SMALL,
            },
            alias_limits: serde_saphyr::alias_limits! {
                max_total_replayed_events: 100_000,
            },
            with_snippet: false,
        }
    }
}

impl Form for Yaml<'_> {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        self.parse(|text, options| serde_saphyr::from_str_with_options(text, options))
    }

    fn read(&self, shape: &'static Shape) -> Result<Read, String> {
        let read = |scalars| {
            self.parse(|text, options| {
                serde_saphyr::with_deserializer_from_str_with_options(text, options, |from| {
                    schema::read(shape, scalars, from)
                })
            })
        };
        read(Scalars::Plain).or_else(|error| {
            let Read {
                value,
                left_out,
                wrong,
            } = read(Scalars::Guessed).map_err(|_| error.clone())?;
            let wrong = left_out.into_iter().chain(wrong).next().ok_or(error)?;
            Ok(Read {
                value,
                left_out: Vec::new(),
                wrong: Some(wrong),
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
