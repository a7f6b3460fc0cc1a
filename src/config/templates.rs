//! Are the placeholders of a template known? What is put in their place is the business of `follow::template`.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::item::Item;
use super::problem::{Problem, nearest};
use super::source::Span;
use super::tree::{Node, Value};
use crate::follow::{TemplateError, placeholders};

/// Unknown placeholders of one string that are reported: a string may have as many as a file has characters.
const MOST_UNKNOWN: usize = 20;
/// Known names among which the one is looked for that was meant, and that are listed.
const MOST_NAMES: usize = 200;

/// What a template may name.
pub(super) struct Known<'k> {
    /// Filled in by orch when it publishes.
    pub ours: &'k [&'k str],
    /// The site's values, by name or by path as in `config.pages`.
    pub values: &'k Map<String, Json>,
}

impl Known<'_> {
    fn has(&self, name: &str) -> bool {
        let by_path = || {
            let mut steps = name.split('.');
            let first = self.values.get(steps.next()?)?;
            steps.try_fold(first, |value, step| value.as_object()?.get(step))
        };
        self.ours.contains(&name) || self.values.contains_key(name) || by_path().is_some()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.ours.iter().copied().chain(self.values.keys().map(String::as_str))
    }
}

/// Reports unknown placeholders and stray braces in every string of a value.
pub(super) fn check(item: &Item<'_>, known: &Known<'_>) {
    let mut nodes = vec![item.node];
    while let Some(node) = nodes.pop() {
        match &node.value {
            Value::Text(text) => check_text(item, node, text, known),
            Value::List(items) => nodes.extend(items.iter().rev()),
            Value::Table(table) => nodes.extend(table.entries.iter().rev().map(|(_, node)| node)),
            _ => {}
        }
    }
}

fn check_text(item: &Item<'_>, node: &Node, text: &str, known: &Known<'_>) {
    let names = match placeholders(&Json::from(text)) {
        Ok(names) => names,
        Err(error) => {
            let label = match error {
                TemplateError::Unclosed { .. } => "a `{` that no `}` closes",
                _ => "a `}` that no `{` opens",
            };
            let problem = item.problem(format!("`{}` has a brace without its partner", item.path), "");
            let problem = problem
                .at(node.span, label)
                .help("a brace that is meant as text is doubled: `{{`, `}}`");
            item.reading.report(problem);
            return;
        }
    };
    let unknown: BTreeSet<String> = names.into_iter().filter(|name| !known.has(name)).collect();
    for name in unknown.into_iter().take(MOST_UNKNOWN) {
        let title = format!("`{}` names the unknown placeholder `{{{name}}}`", item.path);
        if item.reading.problems.is_full() {
            // No word of it is shown.
            item.reading.report(Problem::new(title));
            continue;
        }
        let label = match nearest(&name, known.names().take(MOST_NAMES)) {
            Some(near) => format!("did you mean `{{{near}}}`?"),
            None => "not a known placeholder".to_owned(),
        };
        let problem = item.problem(title, "");
        let problem = problem.at(find(item, node.span, &name), label);
        let names: Vec<String> = known
            .names()
            .take(MOST_NAMES)
            .map(|name| format!("{{{name}}}"))
            .collect();
        let problem = problem.help(format!("known here: {}", names.join(", ")));
        item.reading
            .report(problem.help("a brace that is meant as text is doubled: `{{`, `}}`"));
    }
}

/// Where a placeholder stands within a string; the whole string if escapes hide it.
fn find(item: &Item<'_>, span: Span, name: &str) -> Span {
    part(span, &item.reading.sources.text(span), name)
}

/// The place of `{name}` within the source text of a string.
pub(super) fn part(span: Span, source: &str, name: &str) -> Span {
    let wanted = format!("{{{name}}}");
    match source.find(&wanted) {
        Some(at) => span.part(at, at + wanted.len()),
        None => span,
    }
}
