//! Checks that the placeholders of a template are known. [`crate::template`] fills them in.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use crate::read::item::ConfigItem;
use crate::syntax::problem::{Problem, nearest};
use crate::syntax::source::SourceSpan;
use crate::syntax::tree::{SyntaxNode, SyntaxValue};
use crate::template::{TemplateError, placeholders, value_of};

/// Number of unknown placeholders of one string that are reported: a string may have as many as the file has
/// characters.
const MAX_UNKNOWN: usize = 20;
/// Number of known names that are listed and compared with an unknown one.
const MAX_NAMES: usize = 200;

/// Names that a template may use.
pub(crate) struct KnownNames<'k> {
    /// Names that orch fills in when publishing.
    pub builtin: &'k [&'k str],
    /// Values of the site, by name or by path as in `config.pages`.
    pub values: &'k Map<String, Json>,
}

impl KnownNames<'_> {
    fn has(&self, name: &str) -> bool {
        self.builtin.contains(&name) || value_of(name, self.values).is_some()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.builtin
            .iter()
            .copied()
            .chain(self.values.keys().map(String::as_str))
    }
}

/// Reports unknown placeholders and unpaired braces in every string of a value.
pub(crate) fn check(item: &ConfigItem<'_>, known: &KnownNames<'_>) {
    let mut nodes = vec![item.node];
    while let Some(node) = nodes.pop() {
        match &node.value {
            SyntaxValue::Text(text) => check_text(item, node, text, known),
            SyntaxValue::List(items) => nodes.extend(items.iter().rev()),
            SyntaxValue::Table(table) => nodes.extend(table.entries.iter().rev().map(|(_, node)| node)),
            _ => {}
        }
    }
}

fn check_text(item: &ConfigItem<'_>, node: &SyntaxNode, text: &str, known: &KnownNames<'_>) {
    let names = match placeholders(&Json::from(text)) {
        Ok(names) => names,
        Err(error) => {
            let label = match error {
                TemplateError::Unclosed { .. } => "this `{` is not closed",
                _ => "this `}` is not opened",
            };
            let problem = item.problem(format!("`{}` has an unpaired brace", item.path), "");
            let problem = problem
                .at(node.span, label)
                .help("write a literal brace twice: `{{`, `}}`");
            item.reading.report(problem);
            return;
        }
    };
    let unknown: BTreeSet<String> = names.into_iter().filter(|name| !known.has(name)).collect();
    for name in unknown.into_iter().take(MAX_UNKNOWN) {
        let title = format!("`{}` has the unknown placeholder `{{{name}}}`", item.path);
        if item.reading.problems.is_full() {
            // The problem is only counted, so the text does not need details.
            item.reading.report(Problem::new(title));
            continue;
        }
        let label = match nearest(&name, known.names().take(MAX_NAMES)) {
            Some(near) => format!("did you mean `{{{near}}}`?"),
            None => "not a known placeholder".to_owned(),
        };
        let problem = item.problem(title, "");
        let problem = problem.at(find(item, node.span, &name), label);
        let names: Vec<String> = known
            .names()
            .take(MAX_NAMES)
            .map(|name| format!("{{{name}}}"))
            .collect();
        let problem = problem.help(format!("known here: {}", names.join(", ")));
        item.reading
            .report(problem.help("write a literal brace twice: `{{`, `}}`"));
    }
}

/// Finds a placeholder within a string; returns the span of the whole string if escapes hide the placeholder.
fn find(item: &ConfigItem<'_>, span: SourceSpan, name: &str) -> SourceSpan {
    part(span, &item.reading.sources.text(span), name)
}

/// Finds `{name}` within the source text of a string.
pub(crate) fn part(span: SourceSpan, source: &str, name: &str) -> SourceSpan {
    let wanted = format!("{{{name}}}");
    match source.find(&wanted) {
        Some(at) => span.part(at, at + wanted.len()),
        None => span,
    }
}
