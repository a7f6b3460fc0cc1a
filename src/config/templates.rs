//! Are the placeholders of a template known? What is put in their place is the business of `follow::template`.

use serde_json::Value as Json;

use super::item::Item;
use super::problem::nearest;
use super::source::Span;
use super::tree::{Node, Value};
use crate::follow::{TemplateError, placeholders};

/// Reports unknown placeholders and stray braces in every string of a value.
pub(super) fn check(item: &Item<'_>, known: &[&str], help: &str) {
    let mut nodes = vec![item.node];
    while let Some(node) = nodes.pop() {
        match &node.value {
            Value::Text(text) => check_text(item, node, text, known, help),
            Value::List(items) => nodes.extend(items.iter().rev()),
            Value::Table(table) => nodes.extend(table.entries.iter().rev().map(|(_, node)| node)),
            _ => {}
        }
    }
}

fn check_text(item: &Item<'_>, node: &Node, text: &str, known: &[&str], help: &str) {
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
    for name in names {
        let first = name.split('.').next().unwrap_or_default();
        if known.contains(&name.as_str()) || known.contains(&first) {
            continue;
        }
        let label = match nearest(&name, known.iter().copied()) {
            Some(near) => format!("did you mean `{{{near}}}`?"),
            None => "not a known placeholder".to_owned(),
        };
        let problem = item.problem(
            format!("`{}` names the unknown placeholder `{{{name}}}`", item.path),
            "",
        );
        let problem = problem.at(find(item, node.span, &name), label);
        let names: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
        let problem = problem.help(format!("known: {}; {help}", names.join(", ")));
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
