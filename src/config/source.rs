//! The texts that a configuration is read from, and places in them.
//!
//! A file, a `--set`, a variable: each is a source with a name and a text, so that every error can show where it is.

use std::cell::RefCell;
use std::rc::Rc;

use crate::printable;
use crate::redaction::url_passwords;

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
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub name: String,
    pub text: Rc<str>,
    /// Secrets: shown as stars.
    masked: Vec<Span>,
}

impl Source {
    /// The text as errors may show it; offsets are those of the text itself.
    pub fn shown(&self) -> String {
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
        printable::in_place(&masked)
    }
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
        });
        SourceId(sources.len() - 1)
    }

    pub fn get(&self, id: SourceId) -> Source {
        self.0.borrow()[id.0].clone()
    }

    /// What stands at `span`.
    pub fn text(&self, span: Span) -> String {
        let sources = self.0.borrow();
        let text = sources[span.source.0].text.get(span.start..span.end);
        text.unwrap_or_default().to_owned()
    }

    /// Line of the start of `span`, from 1.
    pub fn line(&self, span: Span) -> usize {
        let text = self.0.borrow()[span.source.0].text.clone();
        let before = text.as_bytes().iter().take(span.start);
        before.filter(|byte| **byte == b'\n').count() + 1
    }

    /// Never show what stands at `span`.
    pub fn mask(&self, span: Span) {
        self.0.borrow_mut()[span.source.0].masked.push(span);
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
        assert_eq!(sources.get(source).shown(), "password = \"*******\"\nport = 1");
    }
}
