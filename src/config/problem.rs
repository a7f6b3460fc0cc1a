//! What is wrong with a configuration: collected, then shown all at once, each with its line and what would be right.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::source::{Sources, Span};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Where, with what is said beside the caret.
    at: Option<(Span, String)>,
    title: String,
    related: Vec<(Span, String)>,
    help: Vec<String>,
}

impl Problem {
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            at: None,
            title: title.into(),
            related: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Where it is, and the words beside the caret.
    pub fn at(mut self, span: Span, label: impl Into<String>) -> Self {
        self.at = Some((span, label.into()));
        self
    }

    /// [`Problem::at`] for a place that may not be known.
    pub fn at_if(self, span: Option<Span>, label: impl Into<String>) -> Self {
        match span {
            Some(span) => self.at(span, label),
            None => self,
        }
    }

    /// Another place that takes part in it.
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// [`Problem::related`] for a place that may not be known.
    pub fn related_if(self, span: Option<Span>, label: impl Into<String>) -> Self {
        match span {
            Some(span) => self.related(span, label),
            None => self,
        }
    }

    /// What would be right, or what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    fn render(&self, sources: &Sources, renderer: &Renderer) -> String {
        let mut group = Group::with_title(Level::ERROR.primary_title(self.title.clone()));
        if let Some((span, label)) = &self.at {
            let places =
                || std::iter::once((span, label)).chain(self.related.iter().map(|(span, label)| (span, label)));
            let mut drawn = BTreeSet::new();
            for (first, _) in places() {
                if !drawn.insert(first.source) {
                    continue;
                }
                let source = sources.get(first.source);
                let mut snippet = Snippet::source(source.shown()).path(source.name.clone());
                for (place, label) in places().filter(|(place, _)| place.source == first.source) {
                    let kind = match place == span {
                        true => AnnotationKind::Primary,
                        false => AnnotationKind::Context,
                    };
                    let label = (!label.is_empty()).then(|| label.clone());
                    snippet = snippet.annotation(kind.span(place.start..place.end).label(label));
                }
                group = group.element(snippet);
            }
        }
        for help in &self.help {
            group = group.element(Level::HELP.message(help.clone()));
        }
        renderer.render(&[group])
    }
}

/// Collects problems while reading goes on.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub fn push(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Everything that was found, in the order of the texts, each once; `file` is named in the last line.
    pub fn into_errors(self, sources: &Sources, file: Option<&str>, color: bool) -> ConfigErrors {
        let mut problems = self.0.into_inner();
        // By place and no further: of two that say the same of one place, the one that was found first stays.
        problems.sort_by(|one, other| one.at.cmp(&other.at));
        problems.dedup_by(|one, other| one == other || (one.at.is_some() && one.at == other.at));
        let renderer = match color {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let mut text = String::new();
        for problem in &problems {
            text.push_str(&problem.render(sources, &renderer));
            text.push_str("\n\n");
        }
        let count = problems.len();
        let errors = if count == 1 { "error" } else { "errors" };
        let place = file.map(|file| format!(" of {file}")).unwrap_or_default();
        text.push_str(&format!(
            "{count} {errors} in the configuration{place}; nothing was started"
        ));
        ConfigErrors { text, count }
    }
}

/// All that is wrong with a configuration, as the user sees it: file, line, column, caret, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    text: String,
    count: usize,
}

impl ConfigErrors {
    /// How many there are; at least one.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for ConfigErrors {}

/// The name nearest to `wrong`, if one is near enough to be meant.
pub(super) fn nearest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let wrong = wrong.to_lowercase();
    let allowed = (wrong.chars().count() / 3).clamp(1, 4);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= allowed || (wrong.len() > 3 && name.starts_with(&wrong)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `` `a`, `b` or `c` ``
pub(super) fn alternatives(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [before @ .., last] => format!("{} or {last}", before.join(", ")),
    }
}
