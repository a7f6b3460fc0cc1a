//! Values as Python prints them: `{'job_id': 'a', 'chord_id': None}`.
//!
//! A task that ends with `return str(info)` stores such a text as the result, and a task event carries every result in
//! this form (Celery wire, observed on 5.x); Celery shortens long ones with `...`. The reader accepts literals only and
//! evaluates nothing: a value that is no literal (`datetime.datetime(2026, 1, 1)`) becomes a text. Length and depth are
//! bounded.

use serde_json::{Map, Number, Value};

use orch_base::text::large_integer;

/// Longest text that is read, in bytes.
pub const MAX_LENGTH: usize = 1024 * 1024;
/// Deepest nesting that is read.
pub const MAX_DEPTH: usize = 32;

/// Reads one value; `None` if the text is not one whole Python literal within the bounds.
pub fn parse(text: &str) -> Option<Value> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let mut reader = LiteralReader { text, at: 0 };
    let value = reader.value(0)?;
    reader.skip_space();
    (reader.at == text.len()).then_some(value)
}

struct LiteralReader<'t> {
    text: &'t str,
    at: usize,
}

impl LiteralReader<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn take(&mut self, expected: &str) -> bool {
        let found = self.text[self.at..].starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.next();
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_space();
        match self.peek()? {
            '{' => self.braces(depth),
            '[' => self.list('[', ']', depth),
            '(' => self.list('(', ')', depth),
            '\'' | '"' => self.string(false).map(Value::String),
            first if first.is_ascii_digit() || matches!(first, '-' | '+' | '.') => self.number(),
            first if first.is_alphabetic() || matches!(first, '_' | '<') => self.word(depth),
            _ => None,
        }
    }

    /// Reads a dict, or a set (which becomes a list).
    fn braces(&mut self, depth: usize) -> Option<Value> {
        self.take("{");
        let mut entries = Map::new();
        let mut members = Vec::new();
        loop {
            self.skip_space();
            if self.take("}") {
                break;
            }
            if !self.take_ellipsis() {
                let key = self.value(depth + 1)?;
                self.skip_space();
                if self.take(":") {
                    let value = self.value(depth + 1)?;
                    entries.insert(key_text(key), value);
                } else {
                    members.push(key);
                }
            }
            self.skip_space();
            if !self.take(",") && self.peek() != Some('}') {
                return None;
            }
        }
        match (entries.is_empty(), members.is_empty()) {
            (_, true) => Some(Value::Object(entries)),
            (true, false) => Some(Value::Array(members)),
            (false, false) => None,
        }
    }

    fn list(&mut self, open: char, close: char, depth: usize) -> Option<Value> {
        if self.next()? != open {
            return None;
        }
        let mut items = Vec::new();
        loop {
            self.skip_space();
            if self.peek()? == close {
                self.next();
                return Some(Value::Array(items));
            }
            if !self.take_ellipsis() {
                items.push(self.value(depth + 1)?);
            }
            self.skip_space();
            if !self.take(",") && self.peek() != Some(close) {
                return None;
            }
        }
    }

    /// Reads the mark that Celery leaves in a shortened representation.
    fn take_ellipsis(&mut self) -> bool {
        self.take("...")
    }

    fn string(&mut self, bytes: bool) -> Option<String> {
        let quote = self.next()?;
        let mut text = String::new();
        loop {
            match self.next()? {
                character if character == quote => return Some(text),
                '\n' => return None,
                '\\' => self.escape(bytes, &mut text)?,
                character => text.push(character),
            }
        }
    }

    fn escape(&mut self, bytes: bool, text: &mut String) -> Option<()> {
        match self.next()? {
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            '\\' => text.push('\\'),
            '\'' => text.push('\''),
            '"' => text.push('"'),
            'x' => text.push(self.code_point(2)?),
            'u' if !bytes => text.push(self.code_point(4)?),
            'U' if !bytes => text.push(self.code_point(8)?),
            // Python prints no other escape; a JSON-like text may have some.
            other => text.extend(['\\', other]),
        }
        Some(())
    }

    fn code_point(&mut self, digits: usize) -> Option<char> {
        let hexadecimal = self.text.get(self.at..self.at + digits)?;
        let code = u32::from_str_radix(hexadecimal, 16).ok()?;
        self.at += digits;
        // A lone surrogate is a legal Python character, but not Unicode text.
        Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn number(&mut self) -> Option<Value> {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|next| next.is_ascii_alphanumeric() || matches!(next, '+' | '-' | '.' | '_'))
        {
            self.next();
        }
        let text = &self.text[start..self.at];
        if let Some(whole) = large_integer::value(text) {
            return Some(whole);
        }
        // `-inf` is a number in Python, but not in JSON.
        text.parse::<f64>()
            .ok()
            .map(|real| Number::from_f64(real).map_or(Value::Null, Value::Number))
    }

    /// Reads a constant, a string with a prefix, or a value that is no literal and becomes a text.
    fn word(&mut self, depth: usize) -> Option<Value> {
        let start = self.at;
        if self.peek() == Some('<') {
            return self.opaque(start, depth);
        }
        while self
            .peek()
            .is_some_and(|next| next.is_alphanumeric() || matches!(next, '_' | '.'))
        {
            self.next();
        }
        match (&self.text[start..self.at], self.peek()) {
            ("b", Some('\'' | '"')) => self.string(true).map(Value::String),
            ("None" | "nan" | "inf" | "null", _) => Some(Value::Null),
            ("True" | "true", _) => Some(Value::Bool(true)),
            ("False" | "false", _) => Some(Value::Bool(false)),
            (_, Some('(')) => self.opaque(start, depth),
            _ => None,
        }
    }

    /// Reads `Name(arguments)` or `<description>` as text from `start`; a string inside may hold any bracket.
    fn opaque(&mut self, start: usize, depth: usize) -> Option<Value> {
        let mut open = Vec::new();
        loop {
            match self.peek()? {
                '\'' | '"' if open.last() != Some(&'>') => {
                    self.string(false)?;
                    continue;
                }
                '(' => open.push(')'),
                '[' => open.push(']'),
                '{' => open.push('}'),
                '<' => open.push('>'),
                close @ (')' | ']' | '}' | '>') if open.pop() != Some(close) => return None,
                _ => {}
            }
            self.next();
            if open.is_empty() {
                return Some(Value::String(self.text[start..self.at].to_owned()));
            }
            if open.len() + depth > MAX_DEPTH {
                return None;
            }
        }
    }
}

fn key_text(key: Value) -> String {
    match key {
        Value::String(text) => text,
        other => large_integer::to_string(&other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_as_python_prints_them() {
        for (text, value) in [
            (
                "{'job_id': 'a-1', 'chord_id': None, 'total_urls': 12}",
                json!({"job_id": "a-1", "chord_id": null, "total_urls": 12}),
            ),
            (r#"{'error': "can't connect"}"#, json!({"error": "can't connect"})),
            (r"{'error': 'both \' and ", json!(null)),
            (r#"'both \' and " here'"#, json!("both ' and \" here")),
            (r"'a\\b\n\t\x00\u20ac\U0001f600'", json!("a\\b\n\t\0€😀")),
            (r"'\ud800'", json!("\u{fffd}")),
            ("'цена €'", json!("цена €")),
            ("b'ab\\xff'", json!("abÿ")),
            (
                "[1, -2, 3.5, 1e3, True, False, None]",
                json!([1, -2, 3.5, 1000.0, true, false, null]),
            ),
            ("(1,)", json!([1])),
            ("()", json!([])),
            ("{}", json!({})),
            ("{1, 2}", json!([1, 2])),
            (
                "{1: 'a', (1, 2): 'b', None: 'c'}",
                json!({"1": "a", "[1,2]": "b", "null": "c"}),
            ),
            ("18446744073709551615", json!(u64::MAX)),
            (
                "1000000000000000000000000",
                large_integer::value("1000000000000000000000000").expect("digits"),
            ),
            ("1e24", json!(1e24)),
            ("[inf, -inf, nan]", json!([null, null, null])),
            (
                "{'at': datetime.datetime(2026, 1, 2, 3, 4), 'n': 1}",
                json!({"at": "datetime.datetime(2026, 1, 2, 3, 4)", "n": 1}),
            ),
            ("{'id': UUID('a)b'), 'n': 1}", json!({"id": "UUID('a)b')", "n": 1})),
            ("[<object at 0x7f>, 1]", json!(["<object at 0x7f>", 1])),
            ("{'job_id': 'a', ...}", json!({"job_id": "a"})),
            ("['a', ...]", json!(["a"])),
            (" { 'a' : [ { 'b' : ( ) } ] } ", json!({"a": [{"b": []}]})),
        ] {
            match value {
                Value::Null => assert_eq!(parse(text), None, "{text}"),
                value => assert_eq!(parse(text), Some(value), "{text}"),
            }
        }
    }

    #[test]
    fn texts_that_are_no_literals_are_refused() {
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        let long = format!("'{}'", "a".repeat(MAX_LENGTH));
        for text in [
            "",
            " ",
            "{",
            "{'a'}}",
            "{'a': }",
            "{'a' 'b'}",
            "hello",
            "a b",
            "'a",
            "'a\nb'",
            "[1 2]",
            "1 2",
            "f(",
            "f(]",
            "{'a': 1, 2}",
            "--",
            &deep,
            &long,
        ] {
            assert_eq!(parse(text), None, "{}", &text[..text.len().min(40)]);
        }
    }

    /// Prints a value as Python's `repr` does, written independently of the reader.
    fn python(value: &Value) -> String {
        match value {
            Value::Null => "None".to_owned(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            Value::Number(number) => number.to_string(),
            Value::String(text) => {
                let quote = if text.contains('\'') && !text.contains('"') {
                    '"'
                } else {
                    '\''
                };
                let mut printed = String::from(quote);
                for character in text.chars() {
                    match character {
                        '\\' => printed.push_str("\\\\"),
                        '\n' => printed.push_str("\\n"),
                        '\r' => printed.push_str("\\r"),
                        '\t' => printed.push_str("\\t"),
                        character if character == quote => printed.extend(['\\', quote]),
                        character if character < ' ' => printed.push_str(&format!("\\x{:02x}", u32::from(character))),
                        character => printed.push(character),
                    }
                }
                printed.push(quote);
                printed
            }
            Value::Array(items) => format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", ")),
            Value::Object(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| format!("{}: {}", python(&json!(key)), python(value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|number| json!(number)),
            any::<String>().prop_map(Value::String),
            "['\"\\\\{}\\[\\]() ,:.n]{0,8}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_that_python_prints_are_read_back(value in any_value()) {
            prop_assert_eq!(parse(&python(&value)), Some(value));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            parse(&text);
        }

        #[test]
        fn no_nearly_right_text_panics(text in "[{}\\[\\]()'\"\\\\<>:,.0-9a-zN€ \n-]{0,40}") {
            parse(&text);
        }
    }
}
