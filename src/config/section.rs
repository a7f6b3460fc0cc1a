//! Reading a table key by key: every key that is asked for is a known one, what is left over is an error.
//!
//! The keys that the readers ask for *are* the schema; there is no second list of them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::item::Item;
use super::model::Need;
use super::problem::{Problem, Problems, nearest};
use super::source::{Sources, Span};
use super::tree::{Key, Node, Table, Value};
use crate::run::{ServiceName, SiteName};

/// What all readers of one load share.
#[derive(Debug)]
pub(super) struct Reading {
    /// Directory of the configuration; relative paths start here.
    pub base: PathBuf,
    pub sources: Sources,
    pub problems: Problems,
    /// Every `after` with its place, for the checks that need all services (`order`).
    pub after: RefCell<Vec<After>>,
    /// Every site that another depends on, with its place, for the checks that need all sites (`site_order`).
    pub site_needs: RefCell<Vec<SiteNeed>>,
    /// The first place where a site is to have the proxies refreshed, for the check that they can be.
    pub asks_for_proxies: RefCell<Option<Span>>,
    /// What a service lacks unless a oneshot before it makes it.
    pub unprepared: RefCell<Vec<(ServiceName, Problem)>>,
    /// Every key that was asked for, with its full path; names that the user chooses are `*`.
    pub known: RefCell<BTreeSet<String>>,
}

/// `service` is started after `needs`.
#[derive(Clone, Debug)]
pub(super) struct After {
    pub service: ServiceName,
    pub needs: ServiceName,
    pub span: Span,
}

/// `site` depends on `needs`.
#[derive(Clone, Debug)]
pub(super) struct SiteNeed {
    pub site: SiteName,
    pub kind: Need,
    pub needs: SiteName,
    pub span: Span,
}

impl Reading {
    pub fn new(base: PathBuf) -> Self {
        Self {
            base,
            sources: Sources::default(),
            problems: Problems::default(),
            after: RefCell::default(),
            site_needs: RefCell::default(),
            asks_for_proxies: RefCell::default(),
            unprepared: RefCell::default(),
            known: RefCell::default(),
        }
    }

    pub fn report(&self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Reports what is missing now, unless `service` starts after a oneshot, which may make it.
    pub fn report_unless_prepared(&self, service: Option<&ServiceName>, problem: Problem) {
        match service {
            Some(service) => self.unprepared.borrow_mut().push((service.clone(), problem)),
            None => self.report(problem),
        }
    }
}

/// One table that is being read; an absent one reads as empty.
pub(super) struct Section<'a> {
    pub reading: &'a Reading,
    /// Such as `celery` or `sites.imot.bg`; empty for the whole file.
    pub path: String,
    /// The same with `*` for names that the user chooses.
    pattern: String,
    /// Its name where it was written; none: it was not.
    pub at: Option<Span>,
    table: Option<&'a Table>,
    asked: RefCell<Vec<&'static str>>,
    /// What must be there and is not.
    missing: RefCell<Vec<Problem>>,
}

impl<'a> Section<'a> {
    pub fn root(reading: &'a Reading, table: &'a Table) -> Self {
        Self {
            reading,
            path: String::new(),
            pattern: String::new(),
            at: None,
            table: Some(table),
            asked: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// A table that is not reached through its parent: a merged one, or an element of a list.
    pub fn of(item: &Item<'a>, at: Span) -> Option<Self> {
        let Value::Table(table) = &item.node.value else {
            return None;
        };
        Some(Self {
            reading: item.reading,
            path: item.path.clone(),
            pattern: item.pattern.clone(),
            at: Some(at),
            table: Some(table),
            asked: RefCell::default(),
            missing: RefCell::default(),
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

    fn entry(&self, key: &'static str) -> Option<&'a (Key, Node)> {
        self.asked.borrow_mut().push(key);
        let pattern = Self::join(&self.pattern, key);
        self.reading.known.borrow_mut().insert(pattern);
        self.table.and_then(|table| table.entry(key))
    }

    fn wrap(&self, key: &str, node: &'a Node) -> Item<'a> {
        Item {
            reading: self.reading,
            node,
            path: Self::join(&self.path, key),
            pattern: Self::join(&self.pattern, key),
        }
    }

    /// The value of a key, if it was written.
    pub fn item(&self, key: &'static str) -> Option<Item<'a>> {
        self.entry(key).map(|(_, node)| self.wrap(key, node))
    }

    /// Where the value of a key stands.
    pub fn place(&self, key: &str) -> Option<Span> {
        self.table.and_then(|table| table.get(key)).map(|node| node.span)
    }

    /// Reads a key that may be absent; what cannot be read is reported and reads as absent.
    pub fn read<T>(&self, key: &'static str, read: impl FnOnce(&Item<'a>) -> Option<T>) -> Option<T> {
        self.item(key).and_then(|item| read(&item))
    }

    /// Reads a key with a default.
    pub fn or<T>(&self, key: &'static str, default: T, read: impl FnOnce(&Item<'a>) -> Option<T>) -> T {
        self.read(key, read).unwrap_or(default)
    }

    /// Reads a key that must be there; [`Section::finish`] reports its absence with an example of what to write.
    pub fn required<T: Default>(
        &self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&Item<'a>) -> Option<T>,
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

    /// A table below this one.
    pub fn section(&self, key: &'static str) -> Section<'a> {
        let mut section = Section {
            reading: self.reading,
            path: Self::join(&self.path, key),
            pattern: Self::join(&self.pattern, key),
            at: None,
            table: None,
            asked: RefCell::default(),
            missing: RefCell::default(),
        };
        if let Some((name, node)) = self.entry(key) {
            section.at = Some(name.span);
            match &node.value {
                Value::Table(table) => section.table = Some(table),
                _ => self.wrap(key, node).wrong("a table"),
            }
        }
        section
    }

    /// The entries of a table whose keys the user chooses, such as `[services.<name>]`.
    pub fn named(&self) -> impl Iterator<Item = (&'a Key, Item<'a>)> {
        let entries = self.table.map(|table| table.entries.as_slice()).unwrap_or_default();
        entries.iter().map(|(key, node)| {
            let item = Item {
                reading: self.reading,
                node,
                path: Self::join(&self.path, &key.name),
                pattern: Self::join(&self.pattern, "*"),
            };
            (key, item)
        })
    }

    /// The same, no more than so many; that there are more is reported, as of these things.
    pub fn named_up_to(&self, most: usize, things: &str) -> impl Iterator<Item = (&'a Key, Item<'a>)> {
        if let Some((key, _)) = self.named().nth(most) {
            let title = format!("`[{}]` has more than {most} {things}", self.path);
            self.reading.report(Problem::new(title).at(key.span, "one too many"));
        }
        self.named().take(most)
    }

    /// The entries that nobody has asked for so far.
    pub fn unknown(&self) -> impl Iterator<Item = &'a (Key, Node)> {
        let asked = self.asked.borrow().clone();
        let entries = self.table.map(|table| table.entries.as_slice()).unwrap_or_default();
        entries
            .iter()
            .filter(move |(key, _)| !asked.contains(&key.name.as_str()))
    }

    /// Reports the keys that nobody asked for, and those that must be there.
    pub fn finish(self) {
        let unquoted = self.unquoted();
        let unknown: Vec<&(Key, Node)> = self.unknown().collect();
        let asked = self.asked.into_inner();
        if unquoted.is_empty() {
            let missing = self.missing.into_inner();
            missing.into_iter().for_each(|problem| self.reading.report(problem));
        }
        for (name, span) in &unquoted {
            let names = self.pattern.trim_end_matches(".*");
            let problem = Problem::new(format!("the name `{name}` is not quoted"))
                .at(*span, "without quotes, what follows a dot is a table within a table")
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
                (Value::Table(_), "") => format!("unknown section `[{}]`", key.name),
                _ => format!("unknown key `{}` {place}", key.name),
            };
            let mut problem = Problem::new(title).at(
                key.span,
                match nearest(&key.name, asked.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "not a known name".to_owned(),
                },
            );
            let mut known = asked.clone();
            known.sort_unstable();
            known.dedup();
            problem = problem.help(format!("known {place}: {}", known.join(", ")));
            self.reading.report(problem);
        }
    }

    /// Names with dots that are written without quotes, such as `[sites.books.example]`, each with its place from the first dot
    /// on: tables under keys that nobody asks for, in a table whose name the user chooses.
    fn unquoted(&self) -> Vec<(String, Span)> {
        let Some((_, first)) = self.path.split_once('.').filter(|_| self.pattern.ends_with(".*")) else {
            return Vec::new();
        };
        let asked = self.asked.borrow();
        let mut found = Vec::new();
        for (key, node) in self.unknown() {
            let is_after_dot = key.span.start.checked_sub(1).is_some_and(|before| {
                let (start, end) = (before, key.span.start);
                self.reading.sources.text(Span { start, end, ..key.span }) == "."
            });
            if let Value::Table(table) = &node.value
                && is_after_dot
                && nearest(&key.name, asked.iter().copied()).is_none()
            {
                ends_of_name(format!("{first}.{}", key.name), key.span, table, &asked, &mut found);
            }
        }
        found
    }
}

/// Goes down to the tables that hold keys which are asked for, or a value.
fn ends_of_name(name: String, span: Span, table: &Table, asked: &[&str], found: &mut Vec<(String, Span)>) {
    let is_name =
        |(key, node): &(Key, Node)| matches!(node.value, Value::Table(_)) && !asked.contains(&key.name.as_str());
    if table.entries.is_empty() || !table.entries.iter().all(is_name) {
        found.push((name, span));
        return;
    }
    for (key, node) in &table.entries {
        if let Value::Table(below) = &node.value {
            let end = if key.span.source == span.source && key.span.end > span.end {
                key.span.end
            } else {
                span.end
            };
            ends_of_name(
                format!("{name}.{}", key.name),
                Span { end, ..span },
                below,
                asked,
                found,
            );
        }
    }
}
