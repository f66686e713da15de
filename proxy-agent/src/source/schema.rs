//! Reads an object as Kubernetes' own decoder (sigs.k8s.io/json) does, for the fields that are used.
//!
//! `null` is the same as an absent field, and a missing field has its zero value. Fields that are not used are skipped
//! without a look at what they hold. A field of the wrong type costs the part that it is in ([`Shape::Parts`]), or else
//! the object, and is named by its path.

use std::{cell::RefCell, fmt};

use k8s_openapi::jiff::Timestamp;
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// What a field holds.
#[derive(Debug)]
pub(super) enum Shape {
    /// A string.
    Text,
    /// A 32-bit integer.
    Integer,
    /// A boolean.
    Flag,
    /// A timestamp of RFC 3339.
    Time,
    /// A map of strings, like labels.
    Texts,
    /// These fields, and others that are not used.
    Fields(&'static [(&'static str, Self)]),
    /// A list. One wrong element makes the list wrong.
    List(&'static Self),
    /// A list whose elements stand for themselves: one that is wrong is left out.
    Parts(&'static Self),
}

/// How strings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalars {
    /// In quotes: JSON.
    Quoted,
    /// In quotes or not: YAML, where a plain `50`, `10.1` or `y` is meant as a string where one belongs. A list or map in the
    /// place of a string is an error of the text then, see [`Scalars::Guessed`].
    Plain,
    /// The same, but plain scalars are what they look like: good to find what is wrong, not to use what is right.
    Guessed,
}

/// What was read of an object.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// What has the right shape. It has no `null`, and lacks what is wrong.
    pub value: Value,
    /// Parts that are left out, and why.
    pub left_out: Vec<String>,
    /// Why the object can't be used, if it can't.
    pub wrong: Option<String>,
}

/// Reads an object of a shape. An error means that the text itself is broken.
pub(super) fn read<'de, D: Deserializer<'de>>(
    shape: &'static Shape,
    scalars: Scalars,
    from: D,
) -> Result<Read, D::Error> {
    let faults = RefCell::default();
    let seed = Reader {
        shape,
        scalars,
        place: Place::Object,
        faults: &faults,
    };
    let value = seed.deserialize(from)?.unwrap_or_default();
    let mut read = Read {
        value,
        ..Read::default()
    };
    for fault in faults.into_inner() {
        match fault.part {
            Some(part) => read
                .left_out
                .push(format!("{}; {part} is left out", fault.text)),
            None => {
                read.wrong.get_or_insert(fault.text);
            }
        }
    }
    Ok(read)
}

/// A field of the wrong type.
#[derive(Debug)]
struct Fault {
    text: String,
    /// The part of the object that it costs; `None`: all of it.
    part: Option<String>,
}

/// Where in the object.
#[derive(Clone, Copy)]
enum Place<'a> {
    Object,
    Field(&'a Place<'a>, &'a str),
    Element(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object => f.write_str("the object"),
            Self::Field(Self::Object, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl Shape {
    /// What a list has in the place of a `null`.
    fn zero(&self) -> Option<Value> {
        match self {
            Self::Text => Some(Value::String(String::new())),
            Self::Integer => Some(0.into()),
            Self::Flag => Some(false.into()),
            Self::Time => None,
            Self::Texts | Self::Fields(_) => Some(Map::new().into()),
            Self::List(_) | Self::Parts(_) => Some(Value::Array(Vec::new())),
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Integer => "a 32-bit integer",
            Self::Flag => "true or false",
            Self::Time => "a time of RFC 3339",
            Self::Texts => "a map of strings",
            Self::Fields(_) => "an object",
            Self::List(_) | Self::Parts(_) => "a list",
        }
    }
}

/// Reads one value; `None`: it is `null`, or it is wrong and that was noted.
#[derive(Clone, Copy)]
struct Reader<'a> {
    shape: &'static Shape,
    scalars: Scalars,
    place: Place<'a>,
    faults: &'a RefCell<Vec<Fault>>,
}

impl<'a> Reader<'a> {
    fn at(&self, shape: &'static Shape, place: Place<'a>) -> Self {
        Self {
            shape,
            place,
            ..*self
        }
    }

    /// Whether a scalar is a string, whatever it looks like.
    fn is_plain_text(&self) -> bool {
        self.scalars == Scalars::Plain && matches!(self.shape, Shape::Text | Shape::Time)
    }

    fn wrong<T>(&self, found: &str) -> Option<T> {
        self.faults.borrow_mut().push(Fault {
            text: format!(
                "{}: expected {}, found {found}",
                self.place,
                self.shape.name()
            ),
            part: None,
        });
        None
    }

    fn scalar(&self, text: &dyn fmt::Display, found: &str) -> Option<Value> {
        match (self.shape, self.scalars) {
            (Shape::Text, Scalars::Plain | Scalars::Guessed) => {
                Some(Value::String(text.to_string()))
            }
            _ => self.wrong(found),
        }
    }

    fn integer(&self, number: i128) -> Option<Value> {
        match (self.shape, i32::try_from(number)) {
            (Shape::Integer, Ok(number)) => Some(Value::Number(Number::from(number))),
            _ => self.scalar(&number, &format!("the number {number}")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        if self.is_plain_text() {
            from.deserialize_option(self)
        } else {
            from.deserialize_any(self)
        }
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shape.name())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        if self.is_plain_text() {
            from.deserialize_str(self)
        } else {
            from.deserialize_any(self)
        }
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(match self.shape {
            Shape::Flag => Some(Value::Bool(flag)),
            _ => self.scalar(&flag, &flag.to_string()),
        })
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(self.integer(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(self.integer(number.into()))
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<Self::Value, E> {
        Ok(self.integer(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        // Go does not take 80.0 for an integer either.
        Ok(self.scalar(&number, &format!("the number {number:?}")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let is_time = || text.parse::<Timestamp>().is_ok();
        Ok(match self.shape {
            Shape::Text => Some(Value::String(text.to_owned())),
            Shape::Time if is_time() => Some(Value::String(text.to_owned())),
            Shape::Time => self.wrong("another string"),
            _ => self.wrong("a string"),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (element, parts) = match self.shape {
            Shape::List(element) => (*element, false),
            Shape::Parts(element) => (*element, true),
            _ => {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(self.wrong("a list"));
            }
        };
        let mut values = Vec::new();
        for index in 0.. {
            let place = Place::Element(&self.place, index);
            let before = self.faults.borrow().len();
            let Some(value) = list.next_element_seed(self.at(element, place))? else {
                break;
            };
            let mut faults = self.faults.borrow_mut();
            let wrong = faults.len() > before;
            if wrong && parts {
                // What is wrong within a part of the part is told with the first.
                faults.truncate(before + 1);
                for fault in &mut faults[before..] {
                    fault.part = Some(place.to_string());
                }
            } else if !wrong {
                values.extend(value.or_else(|| element.zero()));
            }
        }
        Ok(Some(Value::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Map::new();
        match self.shape {
            Shape::Texts => {
                while let Some(key) = map.next_key::<String>()? {
                    let place = Place::Field(&self.place, &key);
                    let value = map.next_value_seed(self.at(&Shape::Text, place))?;
                    let value = value.or_else(|| Shape::Text.zero());
                    fields.extend(value.map(|value| (key, value)));
                }
            }
            Shape::Fields(known) => {
                while let Some(key) = map.next_key::<String>()? {
                    let Some((name, shape)) = known.iter().find(|(name, _)| *name == key) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let place = Place::Field(&self.place, name);
                    let value = map.next_value_seed(self.at(shape, place))?;
                    fields.extend(value.map(|value| (key, value)));
                }
            }
            _ => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(self.wrong("an object"));
            }
        }
        Ok(Some(Value::Object(fields)))
    }
}

#[cfg(test)]
mod tests;
