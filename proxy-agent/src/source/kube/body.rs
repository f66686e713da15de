//! Splits the body of a list into its objects while it comes in, so that it never stands in memory as a whole.

/// The largest object, in bytes, and the longest line of a watch; in etcd an object has 1.5 MB at most.
pub(super) const LARGEST_OBJECT: usize = 32 << 20;
/// The most that a list may say beside its objects, in bytes.
const LARGEST_FRAME: usize = 1 << 20;

/// The largest list, in bytes, and the most objects of a kind: several times what the maps have room for.
pub(super) const LARGEST_LIST: usize = 512 << 20;
pub(super) const MOST_OBJECTS: usize = 500_000;

/// Something is larger than it may be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} {what}")]
pub(super) struct TooLarge {
    /// Of what there is too much.
    pub what: &'static str,
    /// The most that there may be.
    pub limit: usize,
}

/// A list that comes in.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// All but the elements of `items`.
    frame: Vec<u8>,
    /// The element that is not complete yet.
    object: Vec<u8>,
    depth: usize,
    text: Text,
    /// The last string of the frame at depth 1: where a value begins, its name.
    name: Vec<u8>,
    in_items: bool,
    /// White space since the last object.
    blank: usize,
}

/// Whether a byte is within a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Text {
    #[default]
    Outside,
    Inside,
    /// After a backslash.
    Escaped,
}

impl Body {
    /// Takes the next bytes, and hands over each object that is complete with them.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        mut object: impl FnMut(&[u8]),
    ) -> Result<(), TooLarge> {
        for &byte in bytes {
            match (self.text, byte) {
                (Text::Inside, b'\\') => self.text = Text::Escaped,
                (Text::Inside, b'"') => self.text = Text::Outside,
                (Text::Inside, _) => {
                    if self.depth == 1 {
                        self.name.push(byte);
                    }
                }
                (Text::Escaped, _) => self.text = Text::Inside,
                (Text::Outside, b'"') => {
                    self.text = Text::Inside;
                    self.name.clear();
                }
                (Text::Outside, b' ' | b'\t' | b'\r' | b'\n') => {
                    self.blank += 1;
                    if self.blank > LARGEST_OBJECT {
                        return Err(TooLarge {
                            what: "bytes of white space",
                            limit: LARGEST_OBJECT,
                        });
                    }
                    continue;
                }
                (Text::Outside, b'[' | b'{') => {
                    self.depth += 1;
                    if byte == b'[' && self.depth == 2 && self.name == b"items" {
                        self.frame.push(byte);
                        self.in_items = true;
                        continue;
                    }
                }
                (Text::Outside, b']' | b'}') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.in_items && self.depth == 1 {
                        self.in_items = false;
                        self.hand_over(&mut object);
                    }
                }
                (Text::Outside, b',') if self.in_items && self.depth == 2 => {
                    self.hand_over(&mut object);
                    continue;
                }
                (Text::Outside, _) => {}
            }
            let (part, what, limit) = if self.in_items {
                (&mut self.object, "bytes in an object", LARGEST_OBJECT)
            } else {
                (
                    &mut self.frame,
                    "bytes beside the objects of a list",
                    LARGEST_FRAME,
                )
            };
            if part.len() == limit {
                return Err(TooLarge { what, limit });
            }
            part.push(byte);
        }
        Ok(())
    }

    /// What the list says beside its objects, as JSON with an empty list in their place.
    pub(super) fn frame(&self) -> &[u8] {
        &self.frame
    }

    fn hand_over(&mut self, object: &mut impl FnMut(&[u8])) {
        self.blank = 0;
        if !self.object.is_empty() {
            object(&self.object);
            self.object.clear();
        }
    }
}

/// Refuses what is too much.
pub(super) fn at_most(limit: usize, count: usize, what: &'static str) -> Result<(), TooLarge> {
    if count > limit {
        return Err(TooLarge { what, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn split(bytes: &[u8], size: usize) -> (Vec<Value>, Value) {
        let mut body = Body::default();
        let mut objects = Vec::new();
        for chunk in bytes.chunks(size) {
            body.take(chunk, |object| {
                objects.push(serde_json::from_slice(object).unwrap());
            })
            .unwrap();
        }
        (objects, serde_json::from_slice(body.frame()).unwrap())
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            r#"[a"\\ ,\[\]{}:é\n]{0,6}|items"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("items|[a\"]{1,2}", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_list_is_split_wherever_its_chunks_end(
            items in prop::collection::vec(value(), 0..5),
            metadata in value(),
            pretty: bool,
            size in 1..40_usize,
        ) {
            let list = json!({"apiVersion": "v1", "items": items, "metadata": metadata});
            let text = if pretty { serde_json::to_vec_pretty(&list) } else { serde_json::to_vec(&list) };
            let (objects, frame) = split(&text.unwrap(), size);
            prop_assert_eq!(objects, items);
            prop_assert_eq!(frame, json!({"apiVersion": "v1", "items": [], "metadata": metadata}));
        }
    }

    #[test]
    fn what_has_no_end_is_refused_and_takes_no_more_memory_than_it_may() {
        for (begin, what) in [
            ("{\"items\":[{\"a\":\"", "bytes in an object"),
            ("{\"items\":[", "bytes in an object"),
            (
                "{\"metadata\":{\"a\":\"",
                "bytes beside the objects of a list",
            ),
            ("<html>", "bytes beside the objects of a list"),
        ] {
            let mut body = Body::default();
            let mut take = |bytes: &[u8]| body.take(bytes, |_| panic!("no object is complete"));
            take(begin.as_bytes()).unwrap();
            let chunk = vec![b'x'; 1 << 20];
            let error = (0..64).find_map(|_| take(&chunk).err()).unwrap();
            assert_eq!(error.what, what);
            assert!(body.object.capacity() + body.frame.capacity() <= 2 * LARGEST_OBJECT);
        }
        // White space is not kept, and has its limit too.
        let mut body = Body::default();
        body.take(b"{\"items\":[", |_| {}).unwrap();
        let chunk = vec![b' '; 1 << 20];
        let error = (0..64).find_map(|_| body.take(&chunk, |_| {}).err());
        assert_eq!(error.unwrap().what, "bytes of white space");
        assert_eq!(body.object.capacity(), 0);
    }
}
