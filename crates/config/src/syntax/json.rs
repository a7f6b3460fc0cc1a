//! Parser from JSON text to the tree. `serde_json` reports no positions, but the raw values are slices of the text, and
//! their addresses give the positions.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::{Problem, Problems};
use super::source::{SourceId, SourceSpan};
use super::tree;
use super::tree::{Key, SyntaxNode, SyntaxTable, SyntaxValue};

/// Number of nested lists and objects at most.
const MAX_DEPTH: usize = 64;

/// Parses a whole document, which must be an object.
pub(crate) fn document(source: SourceId, text: &str, problems: &Problems) -> SyntaxTable {
    let convert = JsonConverter { source, text, problems };
    let root = match serde_json::from_str::<&RawValue>(text) {
        Ok(root) => root,
        Err(error) => {
            let at = offset(text, error.line(), error.column());
            let span = source.span(at..at);
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            problems.push(Problem::new("this is not JSON").at(span, message));
            return SyntaxTable::default();
        }
    };
    let root = convert.node(root.get(), 0);
    root.map_or_else(SyntaxTable::default, |root| root.into_document("an object", problems))
}

/// Converts a line and a column of `serde_json` (both from 1, the column in bytes) to a byte offset.
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

struct JsonConverter<'t> {
    source: SourceId,
    text: &'t str,
    problems: &'t Problems,
}

impl<'t> JsonConverter<'t> {
    fn span(&self, part: &str) -> SourceSpan {
        let start = part.as_ptr() as usize - self.text.as_ptr() as usize;
        self.source.span(start..start + part.len())
    }

    /// Converts a value; returns `None` after a reported problem.
    fn node(&self, text: &'t str, depth: usize) -> Option<SyntaxNode> {
        let span = self.span(text);
        if depth > MAX_DEPTH {
            self.problems
                .push(Problem::new("nested too deeply").at(span, format!("more than {MAX_DEPTH} levels")));
            return None;
        }
        let value = match text.as_bytes().first() {
            Some(b'{') => SyntaxValue::Table(self.table(text, depth)?),
            Some(b'[') => {
                let items: Vec<&RawValue> = self.parse(text, span)?;
                let items = items.into_iter().map(|item| self.node(item.get(), depth + 1));
                SyntaxValue::List(items.collect::<Option<_>>()?)
            }
            Some(b'"') => SyntaxValue::Text(self.parse(text, span)?),
            Some(b't' | b'f') => SyntaxValue::Boolean(self.parse(text, span)?),
            Some(b'n') => SyntaxValue::Null,
            _ => match tree::integer(text, 10) {
                Some(number) => number,
                None if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) => {
                    self.problems.push(tree::too_many_digits(span));
                    return None;
                }
                None => SyntaxValue::Float(self.parse(text, span)?),
            },
        };
        Some(SyntaxNode::new(value, span))
    }

    fn parse<T: Deserialize<'t>>(&self, text: &'t str, span: SourceSpan) -> Option<T> {
        let parsed = serde_json::from_str(text);
        parsed
            .inspect_err(|error| {
                self.problems
                    .push(Problem::new("this is not JSON").at(span, error.to_string()))
            })
            .ok()
    }

    fn table(&self, text: &'t str, depth: usize) -> Option<SyntaxTable> {
        let ObjectEntries(raw) = self.parse(text, self.span(text))?;
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        for (key, value) in raw {
            let span = self.span(key.get());
            let name: String = self.parse(key.get(), span)?;
            if !seen.insert(name.clone()) {
                self.problems
                    .push(Problem::new(format!("`{name}` is defined twice")).at(span, "the second definition"));
                continue;
            }
            entries.push((Key { name, span }, self.node(value.get(), depth + 1)?));
        }
        Some(SyntaxTable { entries })
    }
}

/// Entries of an object in order; keys and values are slices of the text.
struct ObjectEntries<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'de> Deserialize<'de> for ObjectEntries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = ObjectEntries<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(ObjectEntries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}
