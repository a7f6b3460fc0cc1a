//! The texts that a configuration is read from, and places in them.
//!
//! A file, a `--set`, a variable: each is a source with a name and a text, so that every error can show where it is.

use std::cell::RefCell;
use std::rc::Rc;

use crate::printable;
use crate::redaction::url_passwords;

/// Bytes of lines, and of one line, up to which they are drawn: the renderer measures every character of them, for each
/// problem anew.
const LONGEST_EXCERPT: usize = 256 << 10;
const LONGEST_LINE: usize = 4 << 10;

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SourceId(usize);

/// Bytes `start..end` of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Span {
    pub source: SourceId,
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// The same place, some bytes in.
    pub fn part(self, start: usize, end: usize) -> Self {
        Self {
            start: self.start + start,
            end: (self.start + end).min(self.end),
            ..self
        }
    }
}

/// One text with the name that errors show.
#[derive(Debug)]
struct Source {
    name: String,
    text: Rc<str>,
    /// Secrets: shown as stars.
    masked: Vec<Span>,
    /// The text as errors show it, once one does.
    shown: Option<Rc<str>>,
}

impl Source {
    /// The text as errors may show it; offsets are those of the text itself.
    fn shown(&mut self) -> Rc<str> {
        if let Some(shown) = &self.shown {
            return Rc::clone(shown);
        }
        let mut bytes = self.text.as_bytes().to_vec();
        let masked = self.masked.iter().map(|span| span.start..span.end);
        for place in masked.chain(url_passwords(&self.text)) {
            for byte in bytes.iter_mut().take(place.end).skip(place.start) {
                if !matches!(byte, b'"' | b'\'' | b'\n' | b'\r') {
                    *byte = b'*';
                }
            }
        }
        let masked = String::from_utf8(bytes).unwrap_or_else(|_| "*".repeat(self.text.len()));
        let shown: Rc<str> = printable::in_place(&masked).into();
        self.shown = Some(Rc::clone(&shown));
        shown
    }

    fn line(&self, place: usize) -> usize {
        let before = self.text.as_bytes().get(..place).unwrap_or(self.text.as_bytes());
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// Whole lines of a text, as errors show them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub text: String,
    /// Where it begins in the text: byte, and line from 1.
    pub start: usize,
    pub line: usize,
}

/// All texts of one load, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Sources(RefCell<Vec<Source>>);

impl Sources {
    pub fn add(&self, name: impl Into<String>, text: impl Into<Rc<str>>) -> SourceId {
        let mut sources = self.0.borrow_mut();
        sources.push(Source {
            name: name.into(),
            text: text.into(),
            masked: Vec::new(),
            shown: None,
        });
        SourceId(sources.len() - 1)
    }

    pub fn name(&self, id: SourceId) -> String {
        self.0.borrow()[id.0].name.clone()
    }

    /// The lines of a text from the first to the last of these places; none if they are too long to be drawn.
    pub fn excerpt(&self, id: SourceId, places: impl Iterator<Item = Span> + Clone) -> Option<Excerpt> {
        let mut sources = self.0.borrow_mut();
        let source = &mut sources[id.0];
        let shown = source.shown();
        let starts = |place: usize| shown.get(..place)?.rfind('\n').map_or(Some(0), |line| Some(line + 1));
        let ends = |place: usize| {
            let rest = shown.get(place..)?;
            Some(rest.find('\n').map_or(shown.len(), |line| place + line))
        };
        let (mut start, mut end) = (shown.len(), 0);
        for place in places {
            let (first, last) = (starts(place.start)?, ends(place.end)?);
            // Of a place over several lines each is drawn.
            let longest = shown.get(first..last)?.split('\n').map(str::len).max();
            if longest.is_some_and(|longest| longest > LONGEST_LINE) {
                return None;
            }
            (start, end) = (start.min(first), end.max(last));
        }
        let text = shown.get(start..end).filter(|text| text.len() <= LONGEST_EXCERPT)?;
        Some(Excerpt {
            text: text.to_owned(),
            start,
            line: source.line(start),
        })
    }

    /// What stands at `span`.
    pub fn text(&self, span: Span) -> String {
        let sources = self.0.borrow();
        let text = sources[span.source.0].text.get(span.start..span.end);
        text.unwrap_or_default().to_owned()
    }

    /// Line of the start of `span`, from 1.
    pub fn line(&self, span: Span) -> usize {
        self.0.borrow()[span.source.0].line(span.start)
    }

    /// Never show what stands at `span`.
    pub fn mask(&self, span: Span) {
        let source = &mut self.0.borrow_mut()[span.source.0];
        source.masked.push(span);
        source.shown = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_secret_keeps_its_width_and_its_quotes() {
        let sources = Sources::default();
        let source = sources.add("orch.toml", "password = \"gehëim\"\nport = 1");
        sources.mask(Span {
            source,
            start: 11,
            end: 20,
        });
        let place = |start, end| Span { source, start, end };
        let shown = sources
            .excerpt(source, [place(0, 8), place(23, 24)].into_iter())
            .unwrap();
        assert_eq!(shown.text, "password = \"*******\"\nport = 1");
        let last = sources.excerpt(source, [place(23, 24)].into_iter()).unwrap();
        assert_eq!((&*last.text, last.line, last.start), ("port = 1", 2, 21));
    }
}
