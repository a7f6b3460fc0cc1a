//! JSON values as Python would print them: what `argsrepr` and `kwargsrepr` show in logs and events.

use serde_json::{Map, Value};

use crate::large_integer;

/// Characters after which the text is cut, as Celery's own clients do.
const LONGEST: usize = 1024;

/// Positional arguments, as a tuple.
pub(super) fn tuple(values: &[Value]) -> String {
    let mut text = Text::default();
    text.push("(");
    text.list(values);
    text.push(if values.len() == 1 { ",)" } else { ")" });
    text.0
}

/// Keyword arguments, as a dict.
pub(super) fn dict(values: &Map<String, Value>) -> String {
    let mut text = Text::default();
    text.dict(values);
    text.0
}

/// What has been written so far; nothing more once it is long enough.
#[derive(Default)]
struct Text(String);

impl Text {
    fn is_full(&self) -> bool {
        self.0.len() >= LONGEST
    }

    fn push(&mut self, piece: &str) {
        if self.is_full() {
            return;
        }
        let room = LONGEST - self.0.len();
        if piece.len() <= room {
            self.0.push_str(piece);
        } else {
            let mut end = room.saturating_sub(3);
            while !piece.is_char_boundary(end) {
                end -= 1;
            }
            self.0.push_str(piece.get(..end).unwrap_or_default());
            while self.0.len() < LONGEST {
                self.0.push('.');
            }
        }
    }

    fn list(&mut self, values: &[Value]) {
        for (number, value) in values.iter().enumerate() {
            if self.is_full() {
                return;
            }
            if number > 0 {
                self.push(", ");
            }
            self.value(value);
        }
    }

    fn dict(&mut self, values: &Map<String, Value>) {
        self.push("{");
        for (number, (name, value)) in values.iter().enumerate() {
            if self.is_full() {
                return;
            }
            if number > 0 {
                self.push(", ");
            }
            self.string(name);
            self.push(": ");
            self.value(value);
        }
        self.push("}");
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.push("None"),
            Value::Bool(true) => self.push("True"),
            Value::Bool(false) => self.push("False"),
            Value::Number(number) => self.number(&number.to_string()),
            Value::String(text) => self.string(text),
            Value::Array(values) => {
                self.push("[");
                self.list(values);
                self.push("]");
            }
            Value::Object(values) => match large_integer::digits(value) {
                Some(digits) => self.push(digits),
                None => self.dict(values),
            },
        }
    }

    /// Python writes an exponent with a sign and two digits at least.
    fn number(&mut self, text: &str) {
        let Some((mantissa, exponent)) = text.split_once('e') else {
            return self.push(text);
        };
        let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent.trim_start_matches('+')),
        };
        self.push(&format!("{mantissa}e{sign}{digits:0>2}"));
    }

    fn string(&mut self, text: &str) {
        let quote = if text.contains('\'') && !text.contains('"') {
            '"'
        } else {
            '\''
        };
        // Beyond the limit nothing is looked at: an argument may be a whole page.
        let mut out = String::with_capacity(text.len().min(LONGEST) + 2);
        out.push(quote);
        for character in text.chars().take(LONGEST) {
            match character {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                _ if character == quote => {
                    out.push('\\');
                    out.push(character);
                }
                _ if character.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(character))),
                _ => out.push(character),
            }
        }
        out.push(quote);
        self.push(&out);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_look_as_in_python() {
        for (values, text) in [
            (json!([]), "()"),
            (json!([1]), "(1,)"),
            (json!([2, -3, 0.05]), "(2, -3, 0.05)"),
            (json!([1e16, 1.5e-7, 100000.0]), "(1e+16, 1.5e-07, 100000.0)"),
            (json!([null, true, false]), "(None, True, False)"),
            (
                json!(["a", "it's", "\"'", "a\nb\u{1}\\"]),
                r#"('a', "it's", '"\'', 'a\nb\x01\\')"#,
            ),
            (json!([[1, ["x"]], {"k": {"n": 1}}]), "([1, ['x']], {'k': {'n': 1}})"),
        ] {
            assert_eq!(tuple(values.as_array().expect("a list")), text);
        }
        let Value::Object(keywords) = json!({"a": 1, "b": "x"}) else {
            panic!("an object")
        };
        assert_eq!(dict(&keywords), "{'a': 1, 'b': 'x'}");
    }

    #[test]
    fn what_is_long_is_cut() {
        let text = tuple(&[json!("é".repeat(5000)), json!(1)]);
        assert_eq!(text.len(), LONGEST);
        assert!(text.ends_with("..."), "{text}");
    }
}
