//! TOML text to the tree; all syntax errors that the parser can tell apart, not the first one alone.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::open_bracket;
use super::problem::{Problem, Problems};
use super::source::{SourceId, Span};
use super::tree::{self, Key, Node, Table, Value};

/// Bytes of a text of which all syntax errors are told, of a longer one the first: an error may be a byte, and takes hundreds.
const RECOVERED: usize = 256 << 10;

/// Parses a whole document. Syntax errors are reported; what could be read is returned all the same.
pub(super) fn document(source: SourceId, text: &str, problems: &Problems) -> Table {
    let (document, errors) = if text.len() <= RECOVERED {
        DeTable::parse_recoverable(text)
    } else {
        match DeTable::parse(text) {
            Ok(document) => (document, Vec::new()),
            Err(first) => (toml::Spanned::new(0..0, DeTable::new()), vec![first]),
        }
    };
    report(source, text, errors, problems);
    Convert { source, offset: 0 }.table(document.into_inner(), problems)
}

/// Parses one value that stands at `offset` of its source; `None` when it is no TOML value.
pub(super) fn value(source: SourceId, offset: usize, text: &str, problems: &Problems) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    Some(Convert { source, offset }.node(value, problems))
}

fn report(source: SourceId, text: &str, errors: Vec<toml::de::Error>, problems: &Problems) {
    let open = match errors.is_empty() {
        true => None,
        false => open_bracket::find(text),
    };
    if let Some(open) = &open {
        let at = |range: &Range<usize>| Span {
            source,
            start: range.start,
            end: range.end,
        };
        let label = format!("`{}` is missing: this bracket is not closed", open.closed_by);
        let next = open.next.as_ref().map(at);
        let problem = Problem::new("this is not TOML").at(at(&(open.at..open.at + 1)), label);
        problems.push(problem.related_if(next, "this cannot be within it").syntax(true));
    }
    for error in errors {
        let range = error.span().unwrap_or(text.len()..text.len());
        // What follows an open bracket is taken for something else than it is.
        if open.as_ref().is_some_and(|open| range.start >= open.at) {
            continue;
        }
        let (mut start, end) = (range.start.min(text.len()), range.end.min(text.len()));
        let message = error.message();
        // The parser tells the end of an open line; at the end of the text the place is the last line that says something.
        if start == end && start == text.len() {
            start = text.trim_end().len();
        }
        let span = Span {
            source,
            start,
            end: end.max(start).min(text.len()),
        };
        if message == "duplicate key" {
            let title = format!("`{}` is there twice", &text[start..span.end]);
            problems.push(Problem::new(title).at(span, "the second time"));
            continue;
        }
        let line = text[..start].rsplit('\n').next().unwrap_or_default();
        let open = line.trim_start().starts_with('[') || message.contains("unclosed") || message.contains("multi-line");
        problems.push(Problem::new("this is not TOML").at(span, explain(message)).syntax(open));
    }
}

/// The parser's words where they would mislead: it recovers from many mistakes by taking what it finds for a string.
fn explain(message: &str) -> String {
    match message {
        "string values must be quoted, expected literal string" => "a value is missing, or a string without quotes",
        "invalid literal string, expected `'`" => "a value is missing",
        other => other,
    }
    .to_owned()
}

struct Convert {
    source: SourceId,
    offset: usize,
}

impl Convert {
    fn span(&self, range: std::ops::Range<usize>) -> Span {
        Span {
            source: self.source,
            start: range.start + self.offset,
            end: range.end + self.offset,
        }
    }

    fn table(&self, table: DeTable<'_>, problems: &Problems) -> Table {
        let mut entries: Vec<_> = table
            .into_iter()
            .map(|(key, value)| {
                let span = self.span(key.span());
                let name = key.into_inner().into_owned();
                (Key { name, span }, self.node(value, problems))
            })
            .collect();
        // The parser sorts by name; people mean the order in which they wrote.
        entries.sort_by_key(|(key, _)| key.span.start);
        Table { entries }
    }

    fn list(&self, items: DeArray<'_>, problems: &Problems) -> Vec<Node> {
        items.into_iter().map(|item| self.node(item, problems)).collect()
    }

    fn node(&self, value: Spanned<DeValue<'_>>, problems: &Problems) -> Node {
        let span = self.span(value.span());
        let value = match value.into_inner() {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => tree::integer(number.as_str(), number.radix()).unwrap_or_else(|| {
                problems.push(tree::too_many_digits(span));
                Value::Broken
            }),
            DeValue::Float(number) => {
                let number: f64 = number.as_str().parse().unwrap_or(f64::NAN);
                if number.is_finite() {
                    Value::Float(number)
                } else {
                    problems.push(Problem::new("this number cannot be used").at(span, "not a finite number"));
                    Value::Broken
                }
            }
            DeValue::Boolean(truth) => Value::Boolean(truth),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(items) => Value::List(self.list(items, problems)),
            DeValue::Table(table) => Value::Table(self.table(table, problems)),
        };
        Node::new(value, span)
    }
}
