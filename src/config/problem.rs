//! What is wrong with a configuration: collected, then shown all at once, each with its line and what would be right.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::source::{SourceId, Sources, Span};
use crate::printable::{self, one_line, shortened};
use crate::redaction::redacted;

/// Problems that are drawn; what has more is not a configuration.
const MOST_SHOWN: usize = 100;
/// Problems that are kept to be put in order; more are counted.
const MOST_KEPT: usize = 10 * MOST_SHOWN;
/// Characters of a text of a problem: names in it may be as long as a file, lists of names longer.
const LONGEST_TEXT: usize = 1000;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Where, with what is said beside the caret.
    at: Option<(Span, Box<str>)>,
    title: Box<str>,
    related: Vec<(Span, Box<str>)>,
    help: Vec<String>,
    kind: Kind,
}

/// How sure a problem is when a text could not be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Something written is wrong.
    Written,
    /// Something is not there: perhaps it is, where the text cannot be read.
    Absence,
    /// The text cannot be read at this place; the rest of it can.
    Syntax,
    /// The text cannot be read at this place, and where this ends is a guess: what follows may be misread.
    OpenSyntax,
}

impl Problem {
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            at: None,
            title: bounded(title).into(),
            related: Vec::new(),
            help: Vec::new(),
            kind: Kind::Written,
        }
    }

    /// Something is not there. Not said of a text that cannot be read whole.
    pub fn absence(self) -> Self {
        Self {
            kind: Kind::Absence,
            ..self
        }
    }

    /// The text cannot be parsed; `open`: what follows may be misread, as after a quote that is never closed.
    pub fn syntax(self, open: bool) -> Self {
        let kind = if open { Kind::OpenSyntax } else { Kind::Syntax };
        Self { kind, ..self }
    }

    /// Where it is, and the words beside the caret.
    pub fn at(mut self, span: Span, label: impl Into<String>) -> Self {
        self.at = Some((span, bounded(label).into()));
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
        self.related.push((span, bounded(label).into()));
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
        self.help.push(bounded(help));
        self
    }

    fn is_syntax(&self) -> bool {
        matches!(self.kind, Kind::Syntax | Kind::OpenSyntax)
    }

    fn render(&self, sources: &Sources, renderer: &Renderer) -> String {
        let mut group = Group::with_title(Level::ERROR.primary_title(told(&self.title)));
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
                        group = group.element(Level::NOTE.message(told(label)));
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
                    let label = (!label.is_empty()).then(|| told(label));
                    let place = place.start - excerpt.start..place.end - excerpt.start;
                    snippet = snippet.annotation(kind.span(place).label(label));
                }
                group = group.element(snippet);
            }
        }
        for help in &self.help {
            group = group.element(Level::HELP.message(told(help)));
        }
        renderer.render(&[group])
    }
}

/// No longer than a person reads.
fn bounded(text: impl Into<String>) -> String {
    let text = text.into();
    match text.len() <= LONGEST_TEXT {
        true => text,
        false => shortened(&text, LONGEST_TEXT),
    }
}

/// A text as it is told: safe for a terminal, without passwords of URLs.
fn told(text: &str) -> String {
    printable::text(&redacted(text))
}

/// Collects problems while reading goes on.
#[derive(Debug, Default)]
pub(super) struct Problems {
    kept: RefCell<Vec<Problem>>,
    /// How many more there were.
    others: Cell<usize>,
}

impl Problems {
    pub fn push(&self, problem: Problem) {
        let mut kept = self.kept.borrow_mut();
        match kept.len() < MOST_KEPT {
            true => kept.push(problem),
            false => self.others.set(self.others.get() + 1),
        }
    }

    /// Whether a further one would only be counted.
    pub fn is_full(&self) -> bool {
        self.kept.borrow().len() >= MOST_KEPT
    }

    pub fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty()
    }

    /// Everything that was found, in the order of the texts, each once; `file` is named in the last line.
    pub fn into_errors(self, sources: &Sources, file: Option<&str>, color: bool) -> ConfigErrors {
        let mut problems = self.kept.into_inner();
        // By place and no further: of two that say the same of one place, the one that was found first stays.
        problems.sort_by(|one, other| one.at.cmp(&other.at));
        problems.dedup_by(|one, other| one == other || (one.at.is_some() && one.at == other.at));
        let unread = problems.iter().any(Problem::is_syntax);
        let problems = without_consequences(problems, sources);
        let renderer = match color {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let mut text = String::new();
        for problem in problems.iter().take(MOST_SHOWN) {
            text.push_str(&problem.render(sources, &renderer));
            text.push_str("\n\n");
        }
        let count = problems.len() + self.others.get();
        if count > MOST_SHOWN {
            text.push_str(&format!("and {} more\n\n", count - MOST_SHOWN));
        }
        let errors = if count == 1 { "error" } else { "errors" };
        let place = file.map(|file| format!(" of {}", one_line(file))).unwrap_or_default();
        let more = if unread {
            "; the rest is checked when all of it can be read"
        } else {
            ""
        };
        text.push_str(&format!(
            "{count} {errors} in the configuration{place}; nothing was started{more}"
        ));
        ConfigErrors { text, count }
    }
}

/// Leaves out what may be nothing but a consequence of text that cannot be parsed: further problems of the same line,
/// all others of a text with an open end, and everything that only seems to be absent.
fn without_consequences(problems: Vec<Problem>, sources: &Sources) -> Vec<Problem> {
    if !problems.iter().any(Problem::is_syntax) {
        return problems;
    }
    let mut lines: BTreeMap<(SourceId, usize), Problem> = BTreeMap::new();
    for problem in problems.iter().filter(|problem| problem.is_syntax()) {
        let Some((span, _)) = &problem.at else { continue };
        let line = lines
            .entry((span.source, sources.line(*span)))
            .or_insert_with(|| problem.clone());
        // What is open explains the rest of its line.
        if problem.kind == Kind::OpenSyntax && line.kind != Kind::OpenSyntax {
            *line = problem.clone();
        }
    }
    let open: BTreeSet<SourceId> = lines
        .iter()
        .filter(|(_, problem)| problem.kind == Kind::OpenSyntax)
        .map(|((source, _), _)| *source)
        .collect();
    let sure = |problem: &Problem| {
        let Some((span, _)) = &problem.at else { return false };
        problem.kind == Kind::Written
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

/// All that is wrong with a configuration, as the user sees it: file, line, column, caret, and what would be right.
///
/// Safe to print in a terminal, whatever the texts hold; in colour if the load was told so.
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
pub(crate) fn nearest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // Nobody means a name by a whole text; the distance would take its length times the name's.
    if wrong.len() > LONGEST_TEXT {
        return None;
    }
    let wrong = wrong.to_lowercase();
    let allowed = (wrong.chars().count() / 3).clamp(1, 4);
    names
        .into_iter()
        .filter(|name| name.len() <= LONGEST_TEXT)
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
