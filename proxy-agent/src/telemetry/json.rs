//! The writer of JSON log lines. The formatter writes only whole lines, so this module makes them safe.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde_json::Value;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::LONGEST;
use crate::text;

/// Makes writers of lines.
pub(super) struct Lines<M>(pub M);

/// Writes a line.
pub(super) struct Line<W>(W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Lines<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self.0.make_writer())
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        Line(self.0.make_writer_for(metadata))
    }
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = cut(&text);
        self.0.write_all(text::plain_json(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The line, with each string that is too long cut.
fn cut(line: &str) -> Cow<'_, str> {
    if line.len() <= LONGEST {
        return Cow::Borrowed(line);
    }
    let Ok(mut value) = serde_json::from_str(line) else {
        return text::plain(line, LONGEST);
    };
    cut_value(&mut value);
    Cow::Owned(format!("{value}\n"))
}

fn cut_value(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > LONGEST => {
            *text = text::plain(text, LONGEST).into_owned();
        }
        Value::Array(values) => values.iter_mut().for_each(cut_value),
        Value::Object(fields) => fields.values_mut().for_each(cut_value),
        _ => {}
    }
}
