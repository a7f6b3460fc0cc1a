//! JSON text to the tree. `serde_json` knows no places; its raw values are slices of the text, and these do.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::{Problem, Problems};
use super::source::{SourceId, Span};
use super::tree::{self, Key, Node, Table, Value};

/// Levels of lists and objects.
const DEEPEST: usize = 64;

/// Parses a whole document, which must be an object.
pub(super) fn document(source: SourceId, text: &str, problems: &Problems) -> Table {
    let convert = Convert { source, text, problems };
    let root = match serde_json::from_str::<&RawValue>(text) {
        Ok(root) => root,
        Err(error) => {
            let at = offset(text, error.line(), error.column());
            let span = Span {
                source,
                start: at,
                end: at,
            };
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            problems.push(Problem::new("this is not JSON").at(span, message));
            return Table::default();
        }
    };
    match convert.node(root.get(), 0) {
        Some(Node {
            value: Value::Table(table),
            ..
        }) => table,
        Some(node) => {
            let problem = Problem::new("an object is expected").at(node.span, format!("this is {}", node.kind()));
            problems.push(problem);
            Table::default()
        }
        None => Table::default(),
    }
}

/// Byte offset of a line and column (both from 1, the column in bytes) as `serde_json` tells them.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let mut at = (before + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

struct Convert<'t> {
    source: SourceId,
    text: &'t str,
    problems: &'t Problems,
}

impl<'t> Convert<'t> {
    fn span(&self, part: &str) -> Span {
        let start = part.as_ptr() as usize - self.text.as_ptr() as usize;
        Span {
            source: self.source,
            start,
            end: start + part.len(),
        }
    }

    /// `None`: reported.
    fn node(&self, text: &'t str, depth: usize) -> Option<Node> {
        let span = self.span(text);
        if depth > DEEPEST {
            self.problems
                .push(Problem::new("nested too deeply").at(span, format!("more than {DEEPEST} levels")));
            return None;
        }
        let value = match text.as_bytes().first() {
            Some(b'{') => Value::Table(self.table(text, depth)?),
            Some(b'[') => {
                let items: Vec<&RawValue> = self.parse(text, span)?;
                let items = items.into_iter().map(|item| self.node(item.get(), depth + 1));
                Value::List(items.collect::<Option<_>>()?)
            }
            Some(b'"') => Value::Text(self.parse(text, span)?),
            Some(b't' | b'f') => Value::Boolean(self.parse(text, span)?),
            Some(b'n') => Value::Null,
            _ => match tree::integer(text, 10) {
                Some(number) => number,
                None if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) => {
                    self.problems.push(tree::too_many_digits(span));
                    return None;
                }
                None => Value::Float(self.parse(text, span)?),
            },
        };
        Some(Node::new(value, span))
    }

    fn parse<T: Deserialize<'t>>(&self, text: &'t str, span: Span) -> Option<T> {
        let parsed = serde_json::from_str(text);
        parsed
            .inspect_err(|error| {
                self.problems
                    .push(Problem::new("this is not JSON").at(span, error.to_string()))
            })
            .ok()
    }

    fn table(&self, text: &'t str, depth: usize) -> Option<Table> {
        let Entries(raw) = self.parse(text, self.span(text))?;
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        for (key, value) in raw {
            let span = self.span(key.get());
            let name: String = self.parse(key.get(), span)?;
            if !seen.insert(name.clone()) {
                self.problems
                    .push(Problem::new(format!("`{name}` is there twice")).at(span, "the second time"));
                continue;
            }
            entries.push((Key { name, span }, self.node(value.get(), depth + 1)?));
        }
        Some(Table { entries })
    }
}

/// The entries of an object in order, keys and values as they stand in the text.
struct Entries<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entries<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}
