//! Problems of a configuration: collected, then shown together, each with a line and a hint.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::source::{SourceId, SourceSpan, SourceTexts};
use orch_base::text::printable;
use orch_base::text::printable::{one_line, shortened};
use orch_base::text::redaction::redacted;

/// Number of problems that are shown. A text with more is probably not a configuration.
const MAX_SHOWN: usize = 100;
/// Number of problems that are kept and sorted; further ones are counted.
const MAX_KEPT: usize = 10 * MAX_SHOWN;
/// Length of a text of a problem at most, in characters: a name may be as long as a file, a list of names longer.
const MAX_TEXT_LENGTH: usize = 1000;

/// One problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Position, and the label at the caret.
    at: Option<(SourceSpan, Box<str>)>,
    title: Box<str>,
    related: Vec<(SourceSpan, Box<str>)>,
    help: Vec<String>,
    kind: ProblemKind,
}

/// Kind of a problem, which decides about the display when a text cannot be parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ProblemKind {
    /// A wrong value or name in the text.
    #[default]
    Written,
    /// A missing name or value: perhaps present in the part that cannot be parsed.
    Absence,
    /// A syntax error at this position; the rest of the text can be parsed.
    Syntax,
    /// A syntax error with an unknown end: the text after the error may be parsed wrongly.
    OpenSyntax,
}

impl Problem {
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: bounded(title).into(),
            ..Self::default()
        }
    }

    /// Marks the problem as an absence: such a problem is not shown when a text cannot be parsed completely.
    pub fn absence(self) -> Self {
        Self {
            kind: ProblemKind::Absence,
            ..self
        }
    }

    /// Marks the problem as a syntax error. `open`: the text after the error may be parsed wrongly, as after a quote
    /// that is never closed.
    pub fn syntax(self, open: bool) -> Self {
        let kind = if open {
            ProblemKind::OpenSyntax
        } else {
            ProblemKind::Syntax
        };
        Self { kind, ..self }
    }

    /// Sets the position and the label at the caret.
    pub fn at(mut self, span: SourceSpan, label: impl Into<String>) -> Self {
        self.at = Some((span, bounded(label).into()));
        self
    }

    /// Sets the position if known, like [`Problem::at`].
    pub fn at_if(self, span: Option<SourceSpan>, label: impl Into<String>) -> Self {
        match span {
            Some(span) => self.at(span, label),
            None => self,
        }
    }

    /// Adds a second position that takes part in the problem.
    pub fn related(mut self, span: SourceSpan, label: impl Into<String>) -> Self {
        self.related.push((span, bounded(label).into()));
        self
    }

    /// Adds a second position if known, like [`Problem::related`].
    pub fn related_if(self, span: Option<SourceSpan>, label: impl Into<String>) -> Self {
        match span {
            Some(span) => self.related(span, label),
            None => self,
        }
    }

    /// Adds a hint with the correct form or a remedy.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(bounded(help));
        self
    }

    /// Adds a hint that lists the known names, if there are any.
    pub fn help_names(self, title: &str, names: &[&str]) -> Self {
        match names {
            [] => self,
            names => self.help(format!("{title}: {}", names.join(", "))),
        }
    }

    fn is_syntax(&self) -> bool {
        matches!(self.kind, ProblemKind::Syntax | ProblemKind::OpenSyntax)
    }

    fn render(&self, sources: &SourceTexts, renderer: &Renderer) -> String {
        let mut group = Group::with_title(Level::ERROR.primary_title(printable_text(&self.title)));
        if let Some((span, label)) = &self.at {
            let places =
                || std::iter::once((span, label)).chain(self.related.iter().map(|(span, label)| (span, label)));
            let mut drawn = BTreeSet::new();
            for (first, _) in places() {
                if !drawn.insert(first.source) {
                    continue;
                }
                let of_source = || places().filter(|(place, _)| place.source == first.source);
                let Some(excerpt) = sources.excerpt(first.source, of_source().map(|(place, _)| *place)) else {
                    let place = Origin::path(one_line(&sources.name(first.source)));
                    group = group.element(place.line(sources.line(*first)));
                    for label in of_source().map(|(_, label)| label).filter(|label| !label.is_empty()) {
                        group = group.element(Level::NOTE.message(printable_text(label)));
                    }
                    continue;
                };
                let mut snippet = Snippet::source(excerpt.text)
                    .path(one_line(&sources.name(first.source)))
                    .line_start(excerpt.line);
                for (place, label) in of_source() {
                    let kind = match place == span {
                        true => AnnotationKind::Primary,
                        false => AnnotationKind::Context,
                    };
                    let label = (!label.is_empty()).then(|| printable_text(label));
                    let place = place.start - excerpt.start..place.end - excerpt.start;
                    snippet = snippet.annotation(kind.span(place).label(label));
                }
                group = group.element(snippet);
            }
        }
        for help in &self.help {
            group = group.element(Level::HELP.message(printable_text(help)));
        }
        renderer.render(&[group])
    }
}

/// Shortens a text to a readable length.
fn bounded(text: impl Into<String>) -> String {
    let text = text.into();
    match text.len() <= MAX_TEXT_LENGTH {
        true => text,
        false => shortened(&text, MAX_TEXT_LENGTH),
    }
}

/// Makes a text safe for a terminal and removes the passwords of URLs.
fn printable_text(text: &str) -> String {
    printable::text(&redacted(text))
}

/// Collection of problems during a load.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    kept: RefCell<Vec<Problem>>,
    /// Number of problems beyond those that are kept.
    others: Cell<usize>,
}

impl Problems {
    pub fn push(&self, problem: Problem) {
        let mut kept = self.kept.borrow_mut();
        match kept.len() < MAX_KEPT {
            true => kept.push(problem),
            false => self.others.set(self.others.get() + 1),
        }
    }

    /// Decides whether a further problem would only be counted.
    pub fn is_full(&self) -> bool {
        self.kept.borrow().len() >= MAX_KEPT
    }

    pub fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty()
    }

    /// Renders all problems, sorted by position and without duplicates; the last line names `file`.
    pub fn into_errors(self, sources: &SourceTexts, file: Option<&str>, color: bool) -> ConfigErrors {
        let mut problems = self.kept.into_inner();
        // Sorted by position only: of two problems at the same position the one that was found first stays.
        problems.sort_by(|one, other| one.at.cmp(&other.at));
        problems.dedup_by(|one, other| one == other || (one.at.is_some() && one.at == other.at));
        let unread = problems.iter().any(Problem::is_syntax);
        let problems = without_consequences(problems, sources);
        let renderer = match color {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let mut text = String::new();
        for problem in problems.iter().take(MAX_SHOWN) {
            text.push_str(&problem.render(sources, &renderer));
            text.push_str("\n\n");
        }
        let count = problems.len() + self.others.get();
        if count > MAX_SHOWN {
            text.push_str(&format!("and {} more\n\n", count - MAX_SHOWN));
        }
        let errors = if count == 1 { "error" } else { "errors" };
        let place = file.map(|file| format!(" of {}", one_line(file))).unwrap_or_default();
        let more = if unread {
            "; the rest is checked once the whole text can be parsed"
        } else {
            ""
        };
        text.push_str(&format!(
            "{count} {errors} in the configuration{place}; nothing was started{more}"
        ));
        ConfigErrors { text, count }
    }
}

/// Leaves out problems that may be consequences of text that cannot be parsed: further problems of the same line, all
/// others of a text with an open end, and everything that seems to be absent.
fn without_consequences(problems: Vec<Problem>, sources: &SourceTexts) -> Vec<Problem> {
    if !problems.iter().any(Problem::is_syntax) {
        return problems;
    }
    let mut lines: BTreeMap<(SourceId, usize), Problem> = BTreeMap::new();
    for problem in problems.iter().filter(|problem| problem.is_syntax()) {
        let Some((span, _)) = &problem.at else { continue };
        let line = lines
            .entry((span.source, sources.line(*span)))
            .or_insert_with(|| problem.clone());
        // An open syntax error explains the rest of the line.
        if problem.kind == ProblemKind::OpenSyntax && line.kind != ProblemKind::OpenSyntax {
            *line = problem.clone();
        }
    }
    let open: BTreeSet<SourceId> = lines
        .iter()
        .filter(|(_, problem)| problem.kind == ProblemKind::OpenSyntax)
        .map(|((source, _), _)| *source)
        .collect();
    let sure = |problem: &Problem| {
        let Some((span, _)) = &problem.at else { return false };
        problem.kind == ProblemKind::Written
            && !open.contains(&span.source)
            && !lines.contains_key(&(span.source, sources.line(*span)))
    };
    let mut kept: Vec<Problem> = problems
        .into_iter()
        .filter(sure)
        .chain(lines.values().cloned())
        .collect();
    kept.sort_by(|one, other| one.at.cmp(&other.at));
    kept
}

/// All problems of a configuration, formatted for the user: file, line, column, caret and hint.
///
/// The text is safe to print in a terminal, and coloured if the load options ask for colour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ConfigErrors {
    text: String,
    count: usize,
}

impl ConfigErrors {
    /// Returns the number of problems, which is at least one.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// Finds the name that is most similar to `wrong`, if one is similar enough.
pub fn nearest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // A text this long is no misspelt name; computing the distance takes time proportional to the product of both
    // lengths.
    if wrong.len() > MAX_TEXT_LENGTH {
        return None;
    }
    let wrong = wrong.to_lowercase();
    let allowed = (wrong.chars().count() / 3).clamp(1, 4);
    names
        .into_iter()
        .filter(|name| name.len() <= MAX_TEXT_LENGTH)
        .map(|name| (strsim::damerau_levenshtein(&wrong, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= allowed || (wrong.len() > 3 && name.starts_with(&wrong)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Returns the label of an unknown name: the most similar known name, or else `otherwise`.
pub(crate) fn did_you_mean<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>, otherwise: &str) -> String {
    nearest(wrong, names).map_or_else(|| otherwise.to_owned(), |near| format!("did you mean `{near}`?"))
}

/// Formats names as `` `a`, `b` or `c` ``.
pub(crate) fn alternatives(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [before @ .., last] => format!("{} or {last}", before.join(", ")),
    }
}
