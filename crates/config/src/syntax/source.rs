//! Texts that a configuration is read from, and positions in them.
//!
//! A file, a `--set` argument, a variable: each is a source with a name and a text, so that every problem can show a
//! position.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use orch_base::text::printable;
use orch_base::text::redaction::url_passwords;

/// Number of bytes of all lines, and of one line, that are drawn at most: the renderer measures every character, again
/// for each problem.
const MAX_EXCERPT: usize = 256 << 10;
const MAX_LINE_LENGTH: usize = 4 << 10;

/// Number of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceId(usize);

/// Position as the bytes `start..end` of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceSpan {
    pub source: SourceId,
    pub start: usize,
    pub end: usize,
}

impl SourceId {
    /// Returns the position of these bytes of the source.
    pub fn span(self, bytes: Range<usize>) -> SourceSpan {
        SourceSpan {
            source: self,
            start: bytes.start,
            end: bytes.end,
        }
    }
}

impl SourceSpan {
    /// Returns a part of this position, `start` and `end` in bytes from the start.
    pub fn part(self, start: usize, end: usize) -> Self {
        Self {
            start: self.start + start,
            end: (self.start + end).min(self.end),
            ..self
        }
    }
}

/// One text with the name that problems show.
#[derive(Debug)]
struct SourceText {
    name: String,
    text: Rc<str>,
    /// Positions of secrets, which are shown as stars.
    masked: Vec<SourceSpan>,
    /// Text as problems show it, computed at the first use.
    shown: Option<Rc<str>>,
}

impl SourceText {
    /// Returns the text as problems may show it; offsets are those of the original text.
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

/// Whole lines of a text as problems show them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SourceExcerpt {
    pub text: String,
    /// Position of the excerpt in the text: byte, and line from 1.
    pub start: usize,
    pub line: usize,
}

/// All texts of one load, in the order of their addition.
#[derive(Debug, Default)]
pub(crate) struct SourceTexts(RefCell<Vec<SourceText>>);

impl SourceTexts {
    pub fn add(&self, name: impl Into<String>, text: impl Into<Rc<str>>) -> SourceId {
        let mut sources = self.0.borrow_mut();
        sources.push(SourceText {
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

    /// Returns the lines of a text from the first to the last of these positions; `None` if they are too long to be
    /// drawn.
    pub fn excerpt(&self, id: SourceId, places: impl Iterator<Item = SourceSpan> + Clone) -> Option<SourceExcerpt> {
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
            // Every line of a position over several lines is drawn.
            let longest = shown.get(first..last)?.split('\n').map(str::len).max();
            if longest.is_some_and(|longest| longest > MAX_LINE_LENGTH) {
                return None;
            }
            (start, end) = (start.min(first), end.max(last));
        }
        let text = shown.get(start..end).filter(|text| text.len() <= MAX_EXCERPT)?;
        Some(SourceExcerpt {
            text: text.to_owned(),
            start,
            line: source.line(start),
        })
    }

    /// Returns the text at `span`.
    pub fn text(&self, span: SourceSpan) -> String {
        let sources = self.0.borrow();
        let text = sources[span.source.0].text.get(span.start..span.end);
        text.unwrap_or_default().to_owned()
    }

    /// Returns the line of the start of `span`, from 1.
    pub fn line(&self, span: SourceSpan) -> usize {
        self.0.borrow()[span.source.0].line(span.start)
    }

    /// Hides the text at `span` in all problems.
    pub fn mask(&self, span: SourceSpan) {
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
        let sources = SourceTexts::default();
        let source = sources.add("orch.toml", "password = \"gehëim\"\nport = 1");
        sources.mask(SourceSpan {
            source,
            start: 11,
            end: 20,
        });
        let place = |start, end| SourceSpan { source, start, end };
        let shown = sources
            .excerpt(source, [place(0, 8), place(23, 24)].into_iter())
            .unwrap();
        assert_eq!(shown.text, "password = \"*******\"\nport = 1");
        let last = sources.excerpt(source, [place(23, 24)].into_iter()).unwrap();
        assert_eq!((&*last.text, last.line, last.start), ("port = 1", 2, 21));
    }
}
