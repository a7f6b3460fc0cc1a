//! A quick way through flat JSON objects as Python writes them, for what comes a hundred thousand times a second: texts
//! without escapes, numbers, `true`, `false`, `null`, and a blank at most between two of them.
//!
//! Whatever is unlike that is `None`, and the caller reads all of it with `serde_json`. What is passed over is not
//! checked further than its end is found.

/// A place in a text.
pub(super) struct Flat<'a> {
    text: &'a str,
    at: usize,
}

/// A value that is no list and no object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Text(&'a str),
    Flag(bool),
    Number(f64),
    Null,
}

impl<'a> Flat<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next sign, after a blank if there is one.
    pub(super) fn sign(&mut self) -> Option<u8> {
        if self.peek()? == b' ' {
            self.at += 1;
        }
        let sign = self.peek()?;
        self.at += 1;
        Some(sign)
    }

    pub(super) fn expect(&mut self, sign: u8) -> Option<()> {
        (self.sign()? == sign).then_some(())
    }

    /// Whether nothing follows.
    pub(super) fn is_over(&self) -> bool {
        self.at == self.text.len()
    }

    /// A text, such as the name of an entry.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        self.rest_of_text()
    }

    /// What follows the quote, up to the one that ends it.
    fn rest_of_text(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.at..)?;
        let end = memchr::memchr2(b'"', b'\\', rest.as_bytes())?;
        let text = rest.get(..end)?;
        self.at += end;
        (self.sign()? == b'"').then_some(text)
    }

    fn pass_text(&mut self) -> Option<()> {
        loop {
            let rest = self.text.as_bytes().get(self.at..)?;
            let end = memchr::memchr2(b'"', b'\\', rest)?;
            self.at += end + 1;
            if rest.get(end) == Some(&b'"') {
                return Some(());
            }
            // What is escaped ends nothing.
            self.at += 1;
        }
    }

    pub(super) fn scalar(&mut self) -> Option<Scalar<'a>> {
        match self.sign()? {
            b'"' => self.rest_of_text().map(Scalar::Text),
            b't' => self.word("rue").map(|()| Scalar::Flag(true)),
            b'f' => self.word("alse").map(|()| Scalar::Flag(false)),
            b'n' => self.word("ull").map(|()| Scalar::Null),
            b'-' | b'0'..=b'9' => {
                let begin = self.at - 1;
                self.pass_number();
                let number: f64 = self.text.get(begin..self.at)?.parse().ok()?;
                Some(Scalar::Number(number))
            }
            _ => None,
        }
    }

    /// A value that is not wanted.
    pub(super) fn pass_over(&mut self) -> Option<()> {
        match self.sign()? {
            b'"' => self.pass_text(),
            b't' => self.word("rue"),
            b'f' => self.word("alse"),
            b'n' => self.word("ull"),
            b'-' | b'0'..=b'9' => {
                self.pass_number();
                Some(())
            }
            _ => None,
        }
    }

    fn word(&mut self, rest: &str) -> Option<()> {
        let follows = self.text.get(self.at..)?.starts_with(rest);
        self.at += rest.len();
        follows.then_some(())
    }

    fn pass_number(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let of_number = |byte: &&u8| matches!(**byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E');
        self.at += rest.iter().take_while(of_number).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_is_read_and_what_it_may_write_besides_is_not() {
        let mut flat = Flat::new(r#"{"a": "x é", "b":-1.5e3, "c": true, "d": null, "e": "\"\\", "f": "\u00e9"}"#);
        assert_eq!(flat.expect(b'{'), Some(()));
        for (name, value) in [
            ("a", Scalar::Text("x é")),
            ("b", Scalar::Number(-1500.0)),
            ("c", Scalar::Flag(true)),
            ("d", Scalar::Null),
        ] {
            assert_eq!(flat.text(), Some(name));
            assert_eq!(flat.expect(b':'), Some(()));
            assert_eq!(flat.scalar(), Some(value));
            assert_eq!(flat.expect(b','), Some(()));
        }
        assert_eq!(flat.text(), Some("e"));
        assert_eq!((flat.expect(b':'), flat.pass_over()), (Some(()), Some(())));
        assert_eq!((flat.expect(b','), flat.text()), (Some(()), Some("f")));
        assert_eq!((flat.expect(b':'), flat.scalar()), (Some(()), None));
        for unlike in ["[1]", "{}", "NaN", "  1", "\"open", "\"open\\", "nul", "-", ""] {
            assert_eq!(Flat::new(unlike).scalar(), None, "{unlike}");
        }
        for unlike in ["[1]", "{}", "NaN", "  1", "\"open", "\"open\\", "tru", ""] {
            assert_eq!(Flat::new(unlike).pass_over(), None, "{unlike}");
        }
    }
}
