//! A quick way through flat JSON objects as Python writes them, for what comes a hundred thousand times a second: texts
//! without escapes, numbers, `true`, `false`, `null`, and between them just the blanks that Python puts there.
//!
//! Whatever is unlike that is `None`, and the caller reads all of it with `serde_json`. What is passed over is not
//! checked further than its end is found.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::field::Field;

/// A place in a text.
pub(super) struct Flat<'a> {
    rest: &'a str,
}

impl<'a> Flat<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// Whether this follows; it is behind then.
    pub(super) fn takes(&mut self, token: &str) -> bool {
        let after = self.rest.strip_prefix(token);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    pub(super) fn expect(&mut self, token: &str) -> Option<()> {
        self.takes(token).then_some(())
    }

    /// Whether nothing follows.
    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// What comes before this place, which is behind then.
    fn split_off(&mut self, end: usize) -> Option<&'a str> {
        let (text, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(text)
    }

    /// The name of an entry, with the colon after it. An escaped quote in it is taken for its end, after which no colon
    /// comes.
    pub(super) fn name(&mut self) -> Option<&'a str> {
        self.expect("\"")?;
        let name = self.split_off(memchr(b'"', self.rest.as_bytes())?)?;
        self.expect("\": ")?;
        Some(name)
    }

    /// A value that is no list and no object.
    pub(super) fn field(&mut self) -> Option<Field<'a>> {
        match self.rest.as_bytes().first()? {
            b'"' => {
                self.expect("\"")?;
                let text = self.split_off(memchr2(b'"', b'\\', self.rest.as_bytes())?)?;
                self.expect("\"")?;
                Some(Field::Text(Cow::Borrowed(text)))
            }
            b'-' | b'0'..=b'9' => self.number()?.parse().ok().map(Field::Number),
            b't' => self.expect("true").map(|()| Field::Flag(true)),
            b'f' => self.expect("false").map(|()| Field::Flag(false)),
            b'n' => self.expect("null").map(|()| Field::Other),
            _ => None,
        }
    }

    /// One that is not wanted.
    pub(super) fn pass_over(&mut self) -> Option<()> {
        match self.rest.as_bytes().first()? {
            b'"' => self.pass_text(),
            b'-' | b'0'..=b'9' => self.number().map(|_| ()),
            _ => self.field().map(|_| ()),
        }
    }

    fn number(&mut self) -> Option<&'a str> {
        self.split_off(memchr2(b',', b'}', self.rest.as_bytes())?)
    }

    fn pass_text(&mut self) -> Option<()> {
        let bytes = self.rest.as_bytes();
        let mut at = 1;
        loop {
            at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
            if bytes.get(at) == Some(&b'"') {
                return self.split_off(at + 1).map(|_| ());
            }
            // What is escaped ends nothing.
            at += 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_is_read_and_what_it_may_write_besides_is_not() {
        let mut flat = Flat::new(r#"{"a": "x é", "b": -1.5e3, "c": true, "d": null, "e": "\"\\", "f": "\u00e9"}"#);
        assert!(flat.takes("{") && !flat.takes("{"));
        for (name, value) in [
            ("a", Field::Text("x é".into())),
            ("b", Field::Number(-1500.0)),
            ("c", Field::Flag(true)),
            ("d", Field::Other),
        ] {
            assert_eq!((flat.name(), flat.field()), (Some(name), Some(value)));
            assert!(flat.takes(", "));
        }
        assert_eq!((flat.name(), flat.pass_over()), (Some("e"), Some(())));
        assert_eq!(
            (flat.expect(", "), flat.name(), flat.field()),
            (Some(()), Some("f"), None)
        );
        for unlike in ["[1]", "{}", "NaN", " 1,", "\"open", "\"open\\", "nul", "-}", "-", ""] {
            assert_eq!(Flat::new(unlike).field(), None, "{unlike}");
        }
        for unlike in ["[1]", "{}", "NaN", " 1,", "\"open", "\"open\\", "tru", "1", ""] {
            assert_eq!(Flat::new(unlike).pass_over(), None, "{unlike}");
        }
        for unlike in ["a", "\"a", "\"a\":1", "\"a\\\"\": 1", ""] {
            assert_eq!(Flat::new(unlike).name(), None, "{unlike}");
        }
    }
}
