//! Parser from TOML text to the tree; reports all syntax errors that the parser recovers from, not only the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Problem, Problems};
use super::source::{SourceId, SourceSpan};
use super::tree;
use super::tree::{Key, SyntaxNode, SyntaxTable, SyntaxValue};
use crate::open_bracket;

/// Length in bytes up to which all syntax errors of a text are reported, of a longer text only the first: each byte may
/// be an error, and each error takes hundreds of bytes.
const MAX_RECOVERED_LENGTH: usize = 256 << 10;

/// Parses a whole document. Syntax errors are reported; the readable rest is returned.
pub(crate) fn document(source: SourceId, text: &str, problems: &Problems) -> SyntaxTable {
    let (document, errors) = if text.len() <= MAX_RECOVERED_LENGTH {
        DeTable::parse_recoverable(text)
    } else {
        match DeTable::parse(text) {
            Ok(document) => (document, Vec::new()),
            Err(first) => (toml::Spanned::new(0..0, DeTable::new()), vec![first]),
        }
    };
    report(source, text, errors, problems);
    TomlConverter { source, offset: 0 }.table(document.into_inner(), problems)
}

/// Parses one value at `offset` of the source; returns `None` if the text is not a TOML value.
pub(crate) fn value(source: SourceId, offset: usize, text: &str, problems: &Problems) -> Option<SyntaxNode> {
    let value = DeValue::parse(text).ok()?;
    Some(TomlConverter { source, offset }.node(value, problems))
}

fn report(source: SourceId, text: &str, errors: Vec<toml::de::Error>, problems: &Problems) {
    let open = match errors.is_empty() {
        true => None,
        false => open_bracket::find(text),
    };
    if let Some(open) = &open {
        let at = |range: &Range<usize>| source.span(range.clone());
        let label = format!("`{}` is missing: this bracket is not closed", open.closed_by);
        let next = open.next.as_ref().map(at);
        let problem = Problem::new("this is not TOML").at(at(&(open.at..open.at + 1)), label);
        problems.push(problem.related_if(next, "this cannot be inside it").syntax(true));
    }
    for error in errors {
        let range = error.span().unwrap_or(text.len()..text.len());
        // Text after an open bracket is parsed wrongly.
        if open.as_ref().is_some_and(|open| range.start >= open.at) {
            continue;
        }
        let (mut start, end) = (range.start.min(text.len()), range.end.min(text.len()));
        let message = error.message();
        // The parser reports the end of an open line; at the end of the text the position is the last line with
        // content.
        if start == end && start == text.len() {
            start = text.trim_end().len();
        }
        let span = source.span(start..end.max(start).min(text.len()));
        if message == "duplicate key" {
            let title = format!("`{}` is defined twice", &text[start..span.end]);
            problems.push(Problem::new(title).at(span, "the second definition"));
            continue;
        }
        let line = text[..start].rsplit('\n').next().unwrap_or_default();
        let open = line.trim_start().starts_with('[') || message.contains("unclosed") || message.contains("multi-line");
        problems.push(Problem::new("this is not TOML").at(span, explain(message)).syntax(open));
    }
}

/// Replaces misleading messages of the parser, which recovers from many mistakes by reading the text as a string.
fn explain(message: &str) -> String {
    match message {
        "string values must be quoted, expected literal string" => "a value is missing, or a string without quotes",
        "invalid literal string, expected `'`" => "a value is missing",
        other => other,
    }
    .to_owned()
}

struct TomlConverter {
    source: SourceId,
    offset: usize,
}

impl TomlConverter {
    fn span(&self, range: std::ops::Range<usize>) -> SourceSpan {
        self.source.span(range.start + self.offset..range.end + self.offset)
    }

    fn table(&self, table: DeTable<'_>, problems: &Problems) -> SyntaxTable {
        let mut entries: Vec<_> = table
            .into_iter()
            .map(|(key, value)| {
                let span = self.span(key.span());
                let name = key.into_inner().into_owned();
                (Key { name, span }, self.node(value, problems))
            })
            .collect();
        // The parser sorts by name; users expect the order of the file.
        entries.sort_by_key(|(key, _)| key.span.start);
        SyntaxTable { entries }
    }

    fn list(&self, items: DeArray<'_>, problems: &Problems) -> Vec<SyntaxNode> {
        items.into_iter().map(|item| self.node(item, problems)).collect()
    }

    fn node(&self, value: Spanned<DeValue<'_>>, problems: &Problems) -> SyntaxNode {
        let span = self.span(value.span());
        let value = match value.into_inner() {
            DeValue::String(text) => SyntaxValue::Text(text.into_owned()),
            DeValue::Integer(number) => tree::integer(number.as_str(), number.radix()).unwrap_or_else(|| {
                problems.push(tree::too_many_digits(span));
                SyntaxValue::Broken
            }),
            DeValue::Float(number) => {
                let number: f64 = number.as_str().parse().unwrap_or(f64::NAN);
                if number.is_finite() {
                    SyntaxValue::Float(number)
                } else {
                    problems.push(Problem::new("this number cannot be used").at(span, "not a finite number"));
                    SyntaxValue::Broken
                }
            }
            DeValue::Boolean(truth) => SyntaxValue::Boolean(truth),
            DeValue::Datetime(date) => SyntaxValue::Date(date.to_string()),
            DeValue::Array(items) => SyntaxValue::List(self.list(items, problems)),
            DeValue::Table(table) => SyntaxValue::Table(self.table(table, problems)),
        };
        SyntaxNode::new(value, span)
    }
}
