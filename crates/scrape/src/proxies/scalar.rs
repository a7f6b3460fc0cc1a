//! Value of one field in an entry of a pool, reduced to the part that matters.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Text, number or truth value; nothing for `null`, lists and objects. A text is cut to the length of the longest host
/// name, so that only one text of a file at a time is in memory.
#[derive(Clone, Debug, PartialEq)]
pub enum ScalarValue {
    Text(String),
    Number(f64),
    Boolean(bool),
    Nothing,
}

/// Number of characters that are kept; a host name has at most 253.
const LONGEST_TEXT: usize = 256;

impl ScalarValue {
    /// Returns the text of a text or a number.
    pub fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(number) => Some(number.to_string()),
            Self::Boolean(_) | Self::Nothing => None,
        }
    }
}

impl<'de> Deserialize<'de> for ScalarValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = ScalarValue;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<ScalarValue, E> {
        Ok(ScalarValue::Text(text.chars().take(LONGEST_TEXT).collect()))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a port, a time or a word's number: all are below 2^53 or not exact"
    )]
    fn visit_i64<E>(self, number: i64) -> Result<ScalarValue, E> {
        Ok(ScalarValue::Number(number as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "as above")]
    fn visit_u64<E>(self, number: u64) -> Result<ScalarValue, E> {
        Ok(ScalarValue::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<ScalarValue, E> {
        Ok(ScalarValue::Number(number))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<ScalarValue, E> {
        Ok(ScalarValue::Boolean(truth))
    }

    fn visit_unit<E>(self) -> Result<ScalarValue, E> {
        Ok(ScalarValue::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ScalarValue, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(ScalarValue::Nothing)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<ScalarValue, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(ScalarValue::Nothing)
    }
}
