//! Fast reader of flat JSON objects in the format that Python writes, for up to a hundred thousand events per second.
//! The reader accepts texts without escapes, numbers, `true`, `false`, `null`, and only the spaces that Python inserts.
//!
//! Any other input gives `None`; the caller then reads the whole text with `serde_json`. The reader finds the end of a
//! skipped value and does not validate the value further.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use serde_json::Number;

use crate::wire::scalar_value::ScalarValue;

/// Read position in a JSON text.
pub(crate) struct FlatJsonReader<'a> {
    rest: &'a str,
}

impl<'a> FlatJsonReader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// Skips the token if the text continues with the token, and returns true in this case.
    pub(crate) fn skip_token(&mut self, token: &str) -> bool {
        let after = self.rest.strip_prefix(token);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    pub(crate) fn expect(&mut self, token: &str) -> Option<()> {
        self.skip_token(token).then_some(())
    }

    /// Returns true at the end of the text.
    pub(crate) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the next `end` bytes and moves the position behind them.
    fn split_off(&mut self, end: usize) -> Option<&'a str> {
        let (text, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(text)
    }

    /// Returns the name of the next entry and skips the colon after the name. An escaped quote in the name counts as
    /// the end of the name. No colon follows such a quote, so the result is `None`.
    pub(crate) fn name(&mut self) -> Option<&'a str> {
        self.expect("\"")?;
        let name = self.split_off(memchr(b'"', self.rest.as_bytes())?)?;
        self.expect("\": ")?;
        Some(name)
    }

    /// Reads a value that is neither a list nor an object.
    pub(crate) fn field(&mut self) -> Option<ScalarValue<'a>> {
        match self.rest.as_bytes().first()? {
            b'"' => {
                self.expect("\"")?;
                let text = self.split_off(memchr2(b'"', b'\\', self.rest.as_bytes())?)?;
                self.expect("\"")?;
                Some(ScalarValue::Text(Cow::Borrowed(text)))
            }
            b'-' | b'0'..=b'9' => Number::from_f64(self.number()?.parse().ok()?).map(ScalarValue::Number),
            b't' => self.expect("true").map(|()| ScalarValue::Flag(true)),
            b'f' => self.expect("false").map(|()| ScalarValue::Flag(false)),
            b'n' => self.expect("null").map(|()| ScalarValue::default()),
            _ => None,
        }
    }

    /// Skips a value that the caller does not need.
    pub(crate) fn skip_value(&mut self) -> Option<()> {
        match self.rest.as_bytes().first()? {
            b'"' => self.skip_text(),
            b'-' | b'0'..=b'9' => self.number().map(|_| ()),
            _ => self.field().map(|_| ()),
        }
    }

    fn number(&mut self) -> Option<&'a str> {
        self.split_off(memchr2(b',', b'}', self.rest.as_bytes())?)
    }

    fn skip_text(&mut self) -> Option<()> {
        let bytes = self.rest.as_bytes();
        let mut at = 1;
        loop {
            at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
            if bytes.get(at) == Some(&b'"') {
                return self.split_off(at + 1).map(|_| ());
            }
            // An escaped character does not end the text.
            at += 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_format_of_python_is_read_and_other_formats_are_refused() {
        let mut flat =
            FlatJsonReader::new(r#"{"a": "x é", "b": -1.5e3, "c": true, "d": null, "e": "\"\\", "f": "\u00e9"}"#);
        assert!(flat.skip_token("{") && !flat.skip_token("{"));
        for (name, value) in [
            ("a", ScalarValue::Text("x é".into())),
            ("b", ScalarValue::Number(Number::from_f64(-1500.0).expect("finite"))),
            ("c", ScalarValue::Flag(true)),
            ("d", ScalarValue::default()),
        ] {
            assert_eq!((flat.name(), flat.field()), (Some(name), Some(value)));
            assert!(flat.skip_token(", "));
        }
        assert_eq!((flat.name(), flat.skip_value()), (Some("e"), Some(())));
        assert_eq!(
            (flat.expect(", "), flat.name(), flat.field()),
            (Some(()), Some("f"), None)
        );
        for other in ["[1]", "{}", "NaN", " 1,", "\"open", "\"open\\", "nul", "-}", "-", ""] {
            assert_eq!(FlatJsonReader::new(other).field(), None, "{other}");
        }
        for other in ["[1]", "{}", "NaN", " 1,", "\"open", "\"open\\", "tru", "1", ""] {
            assert_eq!(FlatJsonReader::new(other).skip_value(), None, "{other}");
        }
        for other in ["a", "\"a", "\"a\":1", "\"a\\\"\": 1", ""] {
            assert_eq!(FlatJsonReader::new(other).name(), None, "{other}");
        }
    }
}
