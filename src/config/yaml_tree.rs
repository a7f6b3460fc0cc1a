//! YAML text to the tree, over the parser's events: they have places, which its ready-made trees lose for keys.
//!
//! One document; scalars by the YAML 1.2 core schema; aliases are copied within a bound; tags are not followed.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span as Marks};

use super::problem::{Problem, Problems};
use super::source::{SourceId, Span};
use super::tree::{self, Key, Node, Table, Value};

/// Levels of lists and mappings.
const DEEPEST: usize = 64;
/// Nodes that anchors keep and aliases copy: a few lines of YAML can otherwise stand for gigabytes, by aliases of aliases or
/// by anchors within anchors.
const MOST_COPIED: usize = 100_000;

/// Parses a whole document, which must be a mapping (or empty).
pub(super) fn document(source: SourceId, text: &str, problems: &Problems) -> Table {
    let mut build = Build {
        places: Places::new(source, text),
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
            return Table::default();
        }
    }
    match build.root {
        None | Some(Node { value: Value::Null, .. }) => Table::default(),
        Some(Node {
            value: Value::Table(table),
            ..
        }) => table,
        Some(node) => {
            let problem = Problem::new("a mapping is expected").at(node.span, format!("this is {}", node.kind()));
            problems.push(problem);
            Table::default()
        }
    }
}

/// Characters, in which the parser counts, to bytes.
struct Places {
    source: SourceId,
    length: usize,
    /// Byte offset of every character; none: the text is ASCII, where both are the same.
    offsets: Option<Vec<usize>>,
}

impl Places {
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

    fn at(&self, marker: Marker) -> Span {
        let start = self.byte(marker);
        Span {
            source: self.source,
            start,
            end: start,
        }
    }

    fn span(&self, marks: Marks) -> Span {
        let start = self.byte(marks.start);
        Span {
            source: self.source,
            start,
            end: self.byte(marks.end).max(start),
        }
    }
}

enum Open {
    List {
        anchor: usize,
        start: Span,
        items: Vec<Node>,
    },
    Table {
        anchor: usize,
        start: Span,
        entries: Vec<(Key, Node)>,
        seen: HashSet<String>,
        key: Option<Key>,
    },
}

struct Build {
    places: Places,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    copied: usize,
}

impl Build {
    fn event(&mut self, event: Event<'_>, marks: Marks) -> Result<(), Problem> {
        let span = self.places.span(marks);
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = match style {
                    ScalarStyle::Plain => plain(&text, span)?,
                    _ => Value::Text(text.to_string()),
                };
                let mut node = Node::new(value, span);
                // A key `123` or `yes` is the name that was written.
                node.text = Some(text.into_owned());
                self.add(node, anchor)
            }
            Event::SequenceStart(anchor, _) => self.push(
                Open::List {
                    anchor,
                    start: span,
                    items: Vec::new(),
                },
                span,
            ),
            Event::MappingStart(anchor, _) => self.push(
                Open::Table {
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
                    return Err(Problem::new("an alias to itself").at(span, "not complete yet"));
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

    fn push(&mut self, open: Open, span: Span) -> Result<(), Problem> {
        if self.open.len() >= DEEPEST {
            return Err(Problem::new("nested too deeply").at(span, format!("more than {DEEPEST} levels")));
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Problem> {
        let (value, start, anchor) = match self.open.pop() {
            Some(Open::List { anchor, start, items }) => (Value::List(items), start, anchor),
            Some(Open::Table {
                anchor, start, entries, ..
            }) => (Value::Table(Table { entries }), start, anchor),
            None => return Ok(()),
        };
        let span = Span {
            end: end.end.max(start.start),
            ..start
        };
        self.add(Node::new(value, span), anchor)
    }

    /// Counts a copy before it is kept.
    fn copy(&mut self, node: &Node, title: &str, span: Span) -> Result<(), Problem> {
        self.copied += node.count();
        match self.copied > MOST_COPIED {
            true => Err(Problem::new(title).at(span, "the file would grow beyond all bounds")),
            false => Ok(()),
        }
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if anchor > 0 {
            self.copy(&node, "too much has an anchor", node.span)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(untext(node)),
            Some(Open::Table { entries, seen, key, .. }) => match key.take() {
                Some(key) => entries.push((key, untext(node))),
                None => {
                    let span = node.span;
                    let Some(name) = node.text else {
                        return Err(Problem::new("a key must be a plain word").at(span, "this is none"));
                    };
                    if !seen.insert(name.clone()) {
                        let title = format!("`{name}` is there twice");
                        return Err(Problem::new(title).at(span, "the second time"));
                    }
                    *key = Some(Key { name, span });
                }
            },
        }
        Ok(())
    }
}

/// A value is what it is; only keys are taken as they were written.
fn untext(node: Node) -> Node {
    Node { text: None, ..node }
}

/// A plain scalar by the core schema (YAML 1.2.2, 10.3.2).
fn plain(text: &str, span: Span) -> Result<Value, Problem> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Boolean(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Boolean(false)),
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
        Ok(number) if text.chars().all(numeric) && number.is_finite() => Ok(Value::Float(number)),
        Ok(_) if text.chars().all(numeric) => {
            let problem = Problem::new("this number cannot be used").at(span, "larger than any number with a fraction");
            Err(problem.help("a text that looks like a number stands in quotes"))
        }
        _ => Ok(Value::Text(text.to_owned())),
    }
}
