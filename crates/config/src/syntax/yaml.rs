//! Parser from YAML text to the tree, built on the parser's events: they have positions, which the ready-made trees
//! lose for keys.
//!
//! One document; scalars by the YAML 1.2 core schema; aliases are copied up to a limit; tags are ignored.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span as Marks};

use super::problem::{Problem, Problems};
use super::source::{SourceId, SourceSpan};
use super::tree;
use super::tree::{Key, SyntaxNode, SyntaxTable, SyntaxValue};

/// Number of nested lists and mappings at most.
const MAX_DEPTH: usize = 64;
/// Number of nodes that anchors keep and aliases copy at most: otherwise a few lines of YAML could grow to gigabytes,
/// by aliases of aliases or by anchors within anchors.
const MAX_COPIED: usize = 100_000;

/// Parses a whole document, which must be a mapping or empty.
pub(crate) fn document(source: SourceId, text: &str, problems: &Problems) -> SyntaxTable {
    let mut build = TreeBuilder {
        places: BytePositions::new(source, text),
        open: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        copied: 0,
    };
    for event in Parser::new_from_str(text) {
        let built = match event {
            Ok((event, marks)) => build.event(event, marks),
            Err(error) => {
                let span = build.places.at(*error.marker());
                Err(Problem::new("this is not YAML").at(span, error.info()).syntax(true))
            }
        };
        if let Err(problem) = built {
            problems.push(problem);
            return SyntaxTable::default();
        }
    }
    match build.root {
        None
        | Some(SyntaxNode {
            value: SyntaxValue::Null,
            ..
        }) => SyntaxTable::default(),
        Some(root) => root.into_document("a mapping", problems),
    }
}

/// Conversion of positions from characters, in which the parser counts, to bytes.
struct BytePositions {
    source: SourceId,
    length: usize,
    /// Byte offset of every character; `None` for ASCII, where both are equal.
    offsets: Option<Vec<usize>>,
}

impl BytePositions {
    fn new(source: SourceId, text: &str) -> Self {
        Self {
            source,
            length: text.len(),
            offsets: (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).collect()),
        }
    }

    fn byte(&self, marker: Marker) -> usize {
        match &self.offsets {
            None => marker.index().min(self.length),
            Some(offsets) => offsets.get(marker.index()).copied().unwrap_or(self.length),
        }
    }

    fn at(&self, marker: Marker) -> SourceSpan {
        let start = self.byte(marker);
        self.source.span(start..start)
    }

    fn span(&self, marks: Marks) -> SourceSpan {
        let start = self.byte(marks.start);
        self.source.span(start..self.byte(marks.end).max(start))
    }
}

enum OpenCollection {
    List {
        anchor: usize,
        start: SourceSpan,
        items: Vec<SyntaxNode>,
    },
    Table {
        anchor: usize,
        start: SourceSpan,
        entries: Vec<(Key, SyntaxNode)>,
        seen: HashSet<String>,
        key: Option<Key>,
    },
}

struct TreeBuilder {
    places: BytePositions,
    open: Vec<OpenCollection>,
    root: Option<SyntaxNode>,
    anchors: HashMap<usize, SyntaxNode>,
    copied: usize,
}

impl TreeBuilder {
    fn event(&mut self, event: Event<'_>, marks: Marks) -> Result<(), Problem> {
        let span = self.places.span(marks);
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = match style {
                    ScalarStyle::Plain => plain(&text, span)?,
                    _ => SyntaxValue::Text(text.to_string()),
                };
                let mut node = SyntaxNode::new(value, span);
                // A key `123` or `yes` keeps the spelling.
                node.text = Some(text.into_owned());
                self.add(node, anchor)
            }
            Event::SequenceStart(anchor, _) => self.push(
                OpenCollection::List {
                    anchor,
                    start: span,
                    items: Vec::new(),
                },
                span,
            ),
            Event::MappingStart(anchor, _) => self.push(
                OpenCollection::Table {
                    anchor,
                    start: span,
                    entries: Vec::new(),
                    seen: HashSet::new(),
                    key: None,
                },
                span,
            ),
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(Problem::new("an alias refers to itself").at(span, "the anchor is not complete yet"));
                };
                let node = node.clone();
                self.copy(&node, "too many aliases", span)?;
                self.add(node, 0)
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(Problem::new("more than one YAML document").at(span, "a second one begins here"))
            }
            _ => Ok(()),
        }
    }

    fn push(&mut self, open: OpenCollection, span: SourceSpan) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::new("nested too deeply").at(span, format!("more than {MAX_DEPTH} levels")));
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self, end: SourceSpan) -> Result<(), Problem> {
        let (value, start, anchor) = match self.open.pop() {
            Some(OpenCollection::List { anchor, start, items }) => (SyntaxValue::List(items), start, anchor),
            Some(OpenCollection::Table {
                anchor, start, entries, ..
            }) => (SyntaxValue::Table(SyntaxTable { entries }), start, anchor),
            None => return Ok(()),
        };
        let span = SourceSpan {
            end: end.end.max(start.start),
            ..start
        };
        self.add(SyntaxNode::new(value, span), anchor)
    }

    /// Counts the nodes of a copy before the copy is stored.
    fn copy(&mut self, node: &SyntaxNode, title: &str, span: SourceSpan) -> Result<(), Problem> {
        self.copied += node.count();
        match self.copied > MAX_COPIED {
            true => Err(Problem::new(title).at(span, "the expanded file would be too large")),
            false => Ok(()),
        }
    }

    fn add(&mut self, node: SyntaxNode, anchor: usize) -> Result<(), Problem> {
        if anchor > 0 {
            self.copy(&node, "the anchors contain too many values", node.span)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(OpenCollection::List { items, .. }) => items.push(without_spelling(node)),
            Some(OpenCollection::Table { entries, seen, key, .. }) => match key.take() {
                Some(key) => entries.push((key, without_spelling(node))),
                None => {
                    let span = node.span;
                    let Some(name) = node.text else {
                        return Err(Problem::new("a key must be a scalar").at(span, "not a scalar"));
                    };
                    if !seen.insert(name.clone()) {
                        let title = format!("`{name}` is defined twice");
                        return Err(Problem::new(title).at(span, "the second definition"));
                    }
                    *key = Some(Key { name, span });
                }
            },
        }
        Ok(())
    }
}

/// Removes the spelling of a value; only keys need the spelling.
fn without_spelling(node: SyntaxNode) -> SyntaxNode {
    SyntaxNode { text: None, ..node }
}

/// Reads a plain scalar by the core schema (YAML 1.2.2, 10.3.2).
fn plain(text: &str, span: SourceSpan) -> Result<SyntaxValue, Problem> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(SyntaxValue::Null),
        "true" | "True" | "TRUE" => return Ok(SyntaxValue::Boolean(true)),
        "false" | "False" | "FALSE" => return Ok(SyntaxValue::Boolean(false)),
        _ => {}
    }
    let radix = |prefix, radix| {
        let digits: Option<&str> = text.strip_prefix(prefix);
        digits
            .filter(|digits| !digits.starts_with(['+', '-']))
            .and_then(|digits| tree::integer(digits, radix))
    };
    let number = tree::integer(text, 10)
        .or_else(|| radix("0x", 16))
        .or_else(|| radix("0o", 8));
    if let Some(number) = number {
        return Ok(number);
    }
    let numeric = |character: char| character.is_ascii_digit() || matches!(character, '+' | '-' | '.' | 'e' | 'E');
    match text.parse::<f64>() {
        Ok(_)
            if text
                .strip_prefix(['+', '-'])
                .unwrap_or(text)
                .bytes()
                .all(|byte| byte.is_ascii_digit()) =>
        {
            Err(tree::too_many_digits(span))
        }
        Ok(number) if text.chars().all(numeric) && number.is_finite() => Ok(SyntaxValue::Float(number)),
        Ok(_) if text.chars().all(numeric) => {
            let problem =
                Problem::new("this number cannot be used").at(span, "larger than the largest floating-point number");
            Err(problem.help("put a text that looks like a number in quotes"))
        }
        _ => Ok(SyntaxValue::Text(text.to_owned())),
    }
}
