//! Reader of a table, key by key: every key that is looked up is known, every other key is a problem.
//!
//! The keys that the readers look up *are* the schema; there is no second list of keys.

use std::cell::RefCell;

use super::item::ConfigItem;
use super::load_context::LoadContext;
use crate::syntax::problem::{Problem, did_you_mean, nearest};
use crate::syntax::source::SourceSpan;
use crate::syntax::tree::{Key, SyntaxNode, SyntaxTable, SyntaxValue};

/// Table that is being read; an absent one reads as empty.
pub(crate) struct Section<'a> {
    pub reading: &'a LoadContext,
    /// Path, such as `celery` or `sites.imot.bg`; empty for the whole file.
    pub path: String,
    /// Path with `*` for names that the user chooses.
    pattern: String,
    /// Position of the section's name; `None` if the section is absent.
    pub at: Option<SourceSpan>,
    table: Option<&'a SyntaxTable>,
    looked_up: RefCell<Vec<&'static str>>,
    /// Problems with required keys that are absent.
    missing: RefCell<Vec<Problem>>,
}

impl<'a> Section<'a> {
    pub fn root(reading: &'a LoadContext, table: &'a SyntaxTable) -> Self {
        Self {
            table: Some(table),
            ..Self::absent(reading, String::new(), String::new())
        }
    }

    fn absent(reading: &'a LoadContext, path: String, pattern: String) -> Self {
        Self {
            reading,
            path,
            pattern,
            at: None,
            table: None,
            looked_up: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// Wraps a table that is not reached through the parent: a merged one, or an element of a list.
    pub fn of(item: &ConfigItem<'a>, at: SourceSpan) -> Option<Self> {
        let SyntaxValue::Table(table) = &item.node.value else {
            return None;
        };
        Some(Self {
            at: Some(at),
            table: Some(table),
            ..Self::absent(item.reading, item.path.clone(), item.pattern.clone())
        })
    }

    pub fn is_written(&self) -> bool {
        self.at.is_some()
    }

    fn join(parent: &str, key: &str) -> String {
        match parent {
            "" => key.to_owned(),
            parent => format!("{parent}.{key}"),
        }
    }

    fn entry(&self, key: &'static str) -> Option<&'a (Key, SyntaxNode)> {
        self.looked_up.borrow_mut().push(key);
        let pattern = Self::join(&self.pattern, key);
        self.reading.known_keys.borrow_mut().insert(pattern);
        self.table.and_then(|table| table.entry(key))
    }

    fn wrap(&self, key: &str, node: &'a SyntaxNode) -> ConfigItem<'a> {
        ConfigItem {
            reading: self.reading,
            node,
            path: Self::join(&self.path, key),
            pattern: Self::join(&self.pattern, key),
        }
    }

    /// Returns the value of a key, if the key is present.
    pub fn item(&self, key: &'static str) -> Option<ConfigItem<'a>> {
        self.entry(key).map(|(_, node)| self.wrap(key, node))
    }

    /// Returns the position of a key's value.
    pub fn place(&self, key: &str) -> Option<SourceSpan> {
        self.table.and_then(|table| table.get(key)).map(|node| node.span)
    }

    /// Reads a key that may be absent; a value that cannot be read is reported and treated as absent.
    pub fn read<T>(&self, key: &'static str, read: impl FnOnce(&ConfigItem<'a>) -> Option<T>) -> Option<T> {
        self.item(key).and_then(|item| read(&item))
    }

    /// Reads a key with a default.
    pub fn read_or<T>(&self, key: &'static str, default: T, read: impl FnOnce(&ConfigItem<'a>) -> Option<T>) -> T {
        self.read(key, read).unwrap_or(default)
    }

    /// Reads a required key; [`Section::finish`] reports an absent key with an example.
    pub fn required<T: Default>(
        &self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&ConfigItem<'a>) -> Option<T>,
    ) -> T {
        match self.item(key) {
            Some(item) => read(&item).unwrap_or_default(),
            None => {
                let problem = Problem::new(format!("`{}` is missing", Self::join(&self.path, key)))
                    .at_if(self.at, format!("has no `{key}`"))
                    .help(format!("such as `{key} = {example}`"))
                    .absence();
                self.missing.borrow_mut().push(problem);
                T::default()
            }
        }
    }

    /// Returns a table below this one.
    pub fn section(&self, key: &'static str) -> Section<'a> {
        let (path, pattern) = (Self::join(&self.path, key), Self::join(&self.pattern, key));
        let mut section = Self::absent(self.reading, path, pattern);
        if let Some((name, node)) = self.entry(key) {
            section.at = Some(name.span);
            section.table = match &node.value {
                SyntaxValue::Table(table) => Some(table),
                _ => self.wrap(key, node).wrong("a table"),
            };
        }
        section
    }

    /// Returns the entries of a table with keys that the user chooses, such as `[services.<name>]`.
    pub fn named(&self) -> impl Iterator<Item = (&'a Key, ConfigItem<'a>)> {
        let entries = self.table.map(|table| table.entries.as_slice()).unwrap_or_default();
        entries.iter().map(|(key, node)| {
            let item = ConfigItem {
                reading: self.reading,
                node,
                path: Self::join(&self.path, &key.name),
                pattern: Self::join(&self.pattern, "*"),
            };
            (key, item)
        })
    }

    /// Returns at most `most` entries and reports if there are more; `things` is the noun of the message.
    pub fn named_up_to(&self, most: usize, things: &str) -> impl Iterator<Item = (&'a Key, ConfigItem<'a>)> {
        if let Some((key, _)) = self.named().nth(most) {
            let title = format!("`[{}]` has more than {most} {things}", self.path);
            self.reading
                .report(Problem::new(title).at(key.span, "exceeds the limit"));
        }
        self.named().take(most)
    }

    /// Returns the entries that have not been looked up so far.
    pub fn unknown(&self) -> impl Iterator<Item = &'a (Key, SyntaxNode)> {
        let asked = self.looked_up.borrow().clone();
        let entries = self.table.map(|table| table.entries.as_slice()).unwrap_or_default();
        entries
            .iter()
            .filter(move |(key, _)| !asked.contains(&key.name.as_str()))
    }

    /// Reports the keys that were not looked up, and required keys that are absent.
    pub fn finish(self) {
        let unquoted = self.unquoted();
        let unknown: Vec<&(Key, SyntaxNode)> = self.unknown().collect();
        let asked = self.looked_up.into_inner();
        if unquoted.is_empty() {
            let missing = self.missing.into_inner();
            missing.into_iter().for_each(|problem| self.reading.report(problem));
        }
        for (name, span) in &unquoted {
            let names = self.pattern.trim_end_matches(".*");
            let problem = Problem::new(format!("the name `{name}` is not quoted"))
                .at(*span, "without quotes, the part after a dot names a nested table")
                .help(format!("quote the name: `[{names}.\"{name}\"]`"));
            self.reading.report(problem);
        }
        for (key, node) in unknown {
            if unquoted
                .iter()
                .any(|(_, span)| span.start == key.span.start && span.source == key.span.source)
            {
                continue;
            }
            let place = match self.path.as_str() {
                "" => "at the top level".to_owned(),
                path => format!("in `[{path}]`"),
            };
            let title = match (&node.value, self.path.as_str()) {
                (SyntaxValue::Table(_), "") => format!("unknown section `[{}]`", key.name),
                _ => format!("unknown key `{}` {place}", key.name),
            };
            let label = did_you_mean(&key.name, asked.iter().copied(), "unknown name");
            let mut known = asked.clone();
            known.sort_unstable();
            known.dedup();
            let problem = Problem::new(title).at(key.span, label);
            self.reading
                .report(problem.help(format!("known {place}: {}", known.join(", "))));
        }
    }

    /// Finds names with dots that are written without quotes, such as `[sites.books.example]`, each with the position
    /// from the first dot on. Such a name appears as tables under unknown keys, in a table with a name that the user
    /// chooses.
    fn unquoted(&self) -> Vec<(String, SourceSpan)> {
        let Some((_, first)) = self.path.split_once('.').filter(|_| self.pattern.ends_with(".*")) else {
            return Vec::new();
        };
        let asked = self.looked_up.borrow();
        let mut found = Vec::new();
        for (key, node) in self.unknown() {
            let is_after_dot = key.span.start.checked_sub(1).is_some_and(|before| {
                let (start, end) = (before, key.span.start);
                self.reading.sources.text(SourceSpan { start, end, ..key.span }) == "."
            });
            if let SyntaxValue::Table(table) = &node.value
                && is_after_dot
                && nearest(&key.name, asked.iter().copied()).is_none()
            {
                ends_of_name(format!("{first}.{}", key.name), key.span, table, &asked, &mut found);
            }
        }
        found
    }
}

/// Descends to the tables that contain known keys or values; their path is the complete name.
fn ends_of_name(
    name: String,
    span: SourceSpan,
    table: &SyntaxTable,
    asked: &[&str],
    found: &mut Vec<(String, SourceSpan)>,
) {
    let is_name = |(key, node): &(Key, SyntaxNode)| {
        matches!(node.value, SyntaxValue::Table(_)) && !asked.contains(&key.name.as_str())
    };
    if table.entries.is_empty() || !table.entries.iter().all(is_name) {
        found.push((name, span));
        return;
    }
    for (key, node) in &table.entries {
        if let SyntaxValue::Table(below) = &node.value {
            let end = if key.span.source == span.source && key.span.end > span.end {
                key.span.end
            } else {
                span.end
            };
            ends_of_name(
                format!("{name}.{}", key.name),
                SourceSpan { end, ..span },
                below,
                asked,
                found,
            );
        }
    }
}
