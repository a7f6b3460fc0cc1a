//! What was written, as a tree in which every key and value knows its place; the same for TOML, YAML and JSON.
//!
//! Not here: what keys mean (`read`) and how the formats are parsed (`toml_tree`, `yaml_tree`, `json_tree`).

use std::collections::HashMap;

use super::problem::Problem;
use super::source::{SourceId, Sources, Span};
use crate::large_integer;

/// Values of one file, by the characters between them. A hundred thousand URLs are a fifth of it; what has more than this
/// takes half a gigabyte of memory as a tree.
const MOST_SEPARATORS: usize = 500_000;
/// Entries of a table up to which each key is looked for one by one.
const FEW: usize = 16;

/// Makes sure that a text is not one of more values than orch reads, before it is taken apart.
pub(super) fn check_size(source: SourceId, text: &str) -> Result<(), Problem> {
    let separators = text.bytes().enumerate().filter(|(_, byte)| b",\n[{".contains(byte));
    match separators.skip(MOST_SEPARATORS).map(|(at, _)| at).next() {
        None => Ok(()),
        Some(at) => {
            let span = Span {
                source,
                start: at,
                end: at + 1,
            };
            let label = format!("more than {MOST_SEPARATORS} commas, line breaks and opening brackets up to here");
            Err(Problem::new("this file has more values than orch reads").at(span, label))
        }
    }
}

/// The whole number of some digits with an optional sign; `None` for other texts and for more digits than Python reads.
pub(super) fn integer(text: &str, radix: u32) -> Option<Value> {
    if let Ok(number) = i64::from_str_radix(text, radix) {
        return Some(Value::Integer(number));
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = match radix {
        10 => {
            let digits = digits.trim_start_matches('0');
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            (is_number && digits.len() <= large_integer::MOST_DIGITS).then(|| digits.to_owned())?
        }
        _ => large_integer::decimal(digits, radix)?,
    };
    Some(Value::LargeInteger(format!("{sign}{digits}")))
}

/// The problem of a number that no Python process would read.
pub(super) fn too_many_digits(span: Span) -> Problem {
    let label = format!(
        "more than {} digits, which is more than Python reads",
        large_integer::MOST_DIGITS
    );
    Problem::new("this number is too large").at(span, label)
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub span: Span,
    /// The value as written where it may be taken as text too: a number or boolean of an override (which has no
    /// quotes to tell the two apart) or of a replaced `{ports.<name>}`.
    pub text: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    /// Could not be read, which is reported; nothing more is said about it.
    Broken,
    Text(String),
    Integer(i64),
    /// A whole number beyond 64 bits: its decimal digits, with a sign where it is negative.
    LargeInteger(String),
    Float(f64),
    Boolean(bool),
    /// A TOML date, as written.
    Date(String),
    List(Vec<Node>),
    Table(Table),
}

/// Entries in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub entries: Vec<(Key, Node)>,
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub name: String,
    pub span: Span,
}

impl Node {
    pub fn new(value: Value, span: Span) -> Self {
        Self {
            value,
            span,
            text: None,
        }
    }

    /// The kind of value, as errors name it.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null | Value::Broken => "nothing",
            Value::Text(_) => "a string",
            Value::Integer(_) | Value::LargeInteger(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "a boolean",
            Value::Date(_) => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// Lays `over` upon this: tables are merged key by key, anything else is replaced.
    pub fn merge(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(table), Value::Table(above)) => table.merge(above),
            (_, value) => *self = Node { value, ..over },
        }
    }

    /// How many nodes this is, with those below it.
    pub fn count(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::count).sum(),
            Value::Table(table) => table.entries.iter().map(|(_, node)| node.count()).sum(),
            _ => 0,
        }
    }

    /// Calls `change` on this and on every node below it.
    pub fn walk(&mut self, change: &mut impl FnMut(&mut Node)) {
        change(self);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.walk(change)),
            Value::Table(table) => table.entries.iter_mut().for_each(|(_, node)| node.walk(change)),
            _ => {}
        }
    }
}

impl Table {
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|(_, node)| node)
    }

    pub fn entry(&self, name: &str) -> Option<&(Key, Node)> {
        self.entries.iter().find(|(key, _)| key.name == name)
    }

    pub fn merge(&mut self, above: Table) {
        let is_large = self.entries.len() > FEW && above.entries.len() > FEW;
        let index: Option<HashMap<String, usize>> = is_large.then(|| {
            let names = self.entries.iter().map(|(key, _)| key.name.clone());
            names.enumerate().map(|(at, name)| (name, at)).collect()
        });
        for (key, node) in above.entries {
            let known = match &index {
                // Keys of one table differ: what is added here is not looked for again.
                Some(index) => index.get(&key.name).copied(),
                None => self.entries.iter().position(|(known, _)| known.name == key.name),
            };
            match known.and_then(|at| self.entries.get_mut(at)) {
                // The place of the upper one: it is what the user has to change.
                Some(entry) => {
                    entry.1.merge(node);
                    entry.0 = key;
                }
                None => self.entries.push((key, node)),
            }
        }
    }
}

/// Keeps the values of keys that sound like secrets out of every error.
pub(super) fn mask_secrets(table: &Table, sources: &Sources) {
    for (key, node) in &table.entries {
        match &node.value {
            _ if is_secret(&key.name) => mask(node, sources),
            Value::Table(table) => mask_secrets(table, sources),
            _ => {}
        }
    }
}

/// Does the name sound like a secret?
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "secret", "token", "credential"]
        .iter()
        .any(|word| name.contains(word))
}

/// Everything but the keys of tables, whose spans are headers elsewhere in the text.
fn mask(node: &Node, sources: &Sources) {
    match &node.value {
        Value::Table(table) => table.entries.iter().for_each(|(_, node)| mask(node, sources)),
        _ => sources.mask(node.span),
    }
}
