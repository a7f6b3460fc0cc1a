//! Tree of keys and values with their positions; the same for TOML, YAML and JSON.

use std::collections::HashMap;

use super::problem::{Problem, Problems};
use super::source::{SourceId, SourceSpan, SourceTexts};
use orch_base::text::large_integer;

/// Number of values of one file at most, counted by the characters between them. A hundred thousand URLs are a fifth of
/// it; the tree of a file at the limit takes half a gigabyte of memory.
const MAX_SEPARATORS: usize = 500_000;
/// Number of entries of a table up to which a key is searched for without an index.
const MAX_UNINDEXED: usize = 16;

/// Checks, before a text is parsed, that the number of values is not too large.
pub(crate) fn check_size(source: SourceId, text: &str) -> Result<(), Problem> {
    let separators = text.bytes().enumerate().filter(|(_, byte)| b",\n[{".contains(byte));
    match separators.skip(MAX_SEPARATORS).map(|(at, _)| at).next() {
        None => Ok(()),
        Some(at) => {
            let span = source.span(at..at + 1);
            let label = format!("more than {MAX_SEPARATORS} commas, line breaks and opening brackets up to here");
            Err(Problem::new("this file has too many values").at(span, label))
        }
    }
}

/// Reads a whole number with an optional sign; returns `None` for other texts and for more digits than Python reads.
pub(crate) fn integer(text: &str, radix: u32) -> Option<SyntaxValue> {
    if let Ok(number) = i64::from_str_radix(text, radix) {
        return Some(SyntaxValue::Integer(number));
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
    Some(SyntaxValue::LargeInteger(format!("{sign}{digits}")))
}

/// Returns the problem of a number that no Python process can read.
pub(crate) fn too_many_digits(span: SourceSpan) -> Problem {
    let label = format!(
        "more than {} digits, which is more than Python reads",
        large_integer::MOST_DIGITS
    );
    Problem::new("this number is too large").at(span, label)
}

/// Value with position.
#[derive(Clone, Debug)]
pub(crate) struct SyntaxNode {
    pub value: SyntaxValue,
    pub span: SourceSpan,
    /// Value as written, if the value may also be read as text: a number or boolean of an override (which has no quotes
    /// to distinguish them) or of a replaced `{ports.<name>}`.
    pub text: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum SyntaxValue {
    Null,
    /// Value that could not be read; the problem is reported already, so nothing more is reported.
    Broken,
    Text(String),
    Integer(i64),
    /// Whole number beyond 64 bits: decimal digits, with a sign if negative.
    LargeInteger(String),
    Float(f64),
    Boolean(bool),
    /// TOML date, as written.
    Date(String),
    List(Vec<SyntaxNode>),
    Table(SyntaxTable),
}

/// Table with entries in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct SyntaxTable {
    pub entries: Vec<(Key, SyntaxNode)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub name: String,
    pub span: SourceSpan,
}

impl SyntaxNode {
    pub fn new(value: SyntaxValue, span: SourceSpan) -> Self {
        Self {
            value,
            span,
            text: None,
        }
    }

    /// Creates a table.
    pub fn table(entries: Vec<(Key, SyntaxNode)>, span: SourceSpan) -> Self {
        Self::new(SyntaxValue::Table(SyntaxTable { entries }), span)
    }

    /// Returns the table of a whole document; reports any other value, which is not `wanted`.
    pub fn into_document(self, wanted: &str, problems: &Problems) -> SyntaxTable {
        let kind = self.kind();
        match self.value {
            SyntaxValue::Table(table) => table,
            _ => {
                let problem = Problem::new(format!("{wanted} is expected"));
                problems.push(problem.at(self.span, format!("this is {kind}")));
                SyntaxTable::default()
            }
        }
    }

    /// Returns the name of the kind of value for problems.
    pub fn kind(&self) -> &'static str {
        match self.value {
            SyntaxValue::Null | SyntaxValue::Broken => "nothing",
            SyntaxValue::Text(_) => "a string",
            SyntaxValue::Integer(_) | SyntaxValue::LargeInteger(_) => "a whole number",
            SyntaxValue::Float(_) => "a number with a fraction",
            SyntaxValue::Boolean(_) => "a boolean",
            SyntaxValue::Date(_) => "a date",
            SyntaxValue::List(_) => "a list",
            SyntaxValue::Table(_) => "a table",
        }
    }

    /// Merges `over` into this node: tables are merged key by key, any other value is replaced.
    pub fn merge(&mut self, over: SyntaxNode) {
        match (&mut self.value, over.value) {
            (SyntaxValue::Table(table), SyntaxValue::Table(above)) => table.merge(above),
            (_, value) => *self = SyntaxNode { value, ..over },
        }
    }

    /// Counts this node and all nodes below.
    pub fn count(&self) -> usize {
        1 + match &self.value {
            SyntaxValue::List(items) => items.iter().map(SyntaxNode::count).sum(),
            SyntaxValue::Table(table) => table.entries.iter().map(|(_, node)| node.count()).sum(),
            _ => 0,
        }
    }

    /// Calls `change` on this node and on every node below.
    pub fn walk(&mut self, change: &mut impl FnMut(&mut SyntaxNode)) {
        change(self);
        match &mut self.value {
            SyntaxValue::List(items) => items.iter_mut().for_each(|item| item.walk(change)),
            SyntaxValue::Table(table) => table.entries.iter_mut().for_each(|(_, node)| node.walk(change)),
            _ => {}
        }
    }
}

impl SyntaxTable {
    pub fn get(&self, name: &str) -> Option<&SyntaxNode> {
        self.entry(name).map(|(_, node)| node)
    }

    pub fn entry(&self, name: &str) -> Option<&(Key, SyntaxNode)> {
        self.entries.iter().find(|(key, _)| key.name == name)
    }

    pub fn merge(&mut self, above: SyntaxTable) {
        let is_large = self.entries.len() > MAX_UNINDEXED && above.entries.len() > MAX_UNINDEXED;
        let index: Option<HashMap<String, usize>> = is_large.then(|| {
            let names = self.entries.iter().map(|(key, _)| key.name.clone());
            names.enumerate().map(|(at, name)| (name, at)).collect()
        });
        for (key, node) in above.entries {
            let known = match &index {
                // Keys of one table are distinct, so added ones need no entry in the index.
                Some(index) => index.get(&key.name).copied(),
                None => self.entries.iter().position(|(known, _)| known.name == key.name),
            };
            match known.and_then(|at| self.entries.get_mut(at)) {
                // The position of the override is kept, since the user has to change the override.
                Some(entry) => {
                    entry.1.merge(node);
                    entry.0 = key;
                }
                None => self.entries.push((key, node)),
            }
        }
    }
}

/// Hides the values of keys with secret-like names in all problems.
pub(crate) fn mask_secrets(table: &SyntaxTable, sources: &SourceTexts) {
    for (key, node) in &table.entries {
        match &node.value {
            _ if is_secret(&key.name) => mask(node, sources),
            SyntaxValue::Table(table) => mask_secrets(table, sources),
            _ => {}
        }
    }
}

/// Decides whether the name sounds like a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "secret", "token", "credential"]
        .iter()
        .any(|word| name.contains(word))
}

/// Hides all values, but not the keys of tables, whose spans are headers elsewhere in the text.
fn mask(node: &SyntaxNode, sources: &SourceTexts) {
    match &node.value {
        SyntaxValue::Table(table) => table.entries.iter().for_each(|(_, node)| mask(node, sources)),
        _ => sources.mask(node.span),
    }
}
