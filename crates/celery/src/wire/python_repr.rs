//! Conversion of JSON values to Python's `repr`, for the headers `argsrepr` and `kwargsrepr` that logs and events show.

use serde_json::{Map, Value};

use orch_base::text::large_integer;

/// Length in bytes to which the text is cut, as in Celery's own clients.
const MAX_LENGTH: usize = 1024;

/// Prints positional arguments as a tuple.
pub(crate) fn tuple(values: &[Value]) -> String {
    let mut text = ReprText::default();
    text.push("(");
    text.list(values);
    text.push(if values.len() == 1 { ",)" } else { ")" });
    text.0
}

/// Prints keyword arguments as a dict.
pub(crate) fn dict(values: &Map<String, Value>) -> String {
    let mut text = ReprText::default();
    text.dict(values);
    text.0
}

/// Text that accepts nothing more when it has the maximum length.
#[derive(Default)]
struct ReprText(String);

impl ReprText {
    fn is_full(&self) -> bool {
        self.0.len() >= MAX_LENGTH
    }

    fn push(&mut self, piece: &str) {
        if self.is_full() {
            return;
        }
        let room = MAX_LENGTH - self.0.len();
        if piece.len() <= room {
            self.0.push_str(piece);
        } else {
            let mut end = room.saturating_sub(3);
            while !piece.is_char_boundary(end) {
                end -= 1;
            }
            self.0.push_str(piece.get(..end).unwrap_or_default());
            while self.0.len() < MAX_LENGTH {
                self.0.push('.');
            }
        }
    }

    /// Prints items with commas between them.
    fn items<T>(&mut self, items: impl IntoIterator<Item = T>, print: impl Fn(&mut Self, T)) {
        for (number, item) in items.into_iter().enumerate() {
            if self.is_full() {
                return;
            }
            if number > 0 {
                self.push(", ");
            }
            print(self, item);
        }
    }

    fn list(&mut self, values: &[Value]) {
        self.items(values, Self::value);
    }

    fn dict(&mut self, values: &Map<String, Value>) {
        self.push("{");
        self.items(values, |printer, (name, value)| {
            printer.string(name);
            printer.push(": ");
            printer.value(value);
        });
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

    /// Prints a number: Python writes an exponent with a sign and at least two digits.
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
        // Characters beyond the limit are not processed: an argument may be a whole page.
        let mut out = String::with_capacity(text.len().min(MAX_LENGTH) + 2);
        out.push(quote);
        for character in text.chars().take(MAX_LENGTH) {
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
            (json!([1e16, 1.5e-7, 100_000.0]), "(1e+16, 1.5e-07, 100000.0)"),
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
    fn long_text_is_cut() {
        let text = tuple(&[json!("é".repeat(5000)), json!(1)]);
        assert_eq!(text.len(), MAX_LENGTH);
        assert!(text.ends_with("..."), "{text}");
    }
}
