//! JSON value that keeps a text, a flag or a number, borrowed from the input where possible.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, UnitDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::ids::LONGEST_NAME;

/// Scalar JSON value; every other value is `Other`. By default lists and objects are skipped, because a message from
/// outside could make them large; with another type than [`IgnoredAny`] they are kept.
#[derive(Debug, PartialEq)]
pub(crate) enum ScalarValue<'de, O = IgnoredAny> {
    Text(Cow<'de, str>),
    Flag(bool),
    Number(Number),
    Other(O),
}

impl Default for ScalarValue<'_> {
    fn default() -> Self {
        Self::Other(IgnoredAny)
    }
}

impl<O> ScalarValue<'_, O> {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Flag(_) | Self::Number(_) | Self::Other(_) => None,
        }
    }

    /// Returns the text if it is short enough to be kept: at most [`LONGEST_NAME`] bytes.
    pub(crate) fn short_text(&self) -> Option<&str> {
        self.text().filter(|text| text.len() <= LONGEST_NAME)
    }

    pub(crate) fn number(&self) -> Option<&Number> {
        match self {
            Self::Number(number) => Some(number),
            Self::Text(_) | Self::Flag(_) | Self::Other(_) => None,
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        matches!(self, Self::Flag(true))
    }
}

impl<'de, O: Deserialize<'de>> Deserialize<'de> for ScalarValue<'de, O> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarValueVisitor<O>(PhantomData<O>);

        impl<'de, O: Deserialize<'de>> Visitor<'de> for ScalarValueVisitor<O> {
            type Value = ScalarValue<'de, O>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(ScalarValue::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(ScalarValue::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(ScalarValue::Flag(value))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(ScalarValue::Number(number.into()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(ScalarValue::Number(number.into()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                // The parser of JSON accepts no other numbers.
                let number = Number::from_f64(number).ok_or_else(|| E::custom("a number is not finite"))?;
                Ok(ScalarValue::Number(number))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                O::deserialize(UnitDeserializer::new()).map(ScalarValue::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                O::deserialize(SeqAccessDeserializer::new(items)).map(ScalarValue::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
                O::deserialize(MapAccessDeserializer::new(entries)).map(ScalarValue::Other)
            }
        }

        deserializer.deserialize_any(ScalarValueVisitor(PhantomData))
    }
}

/// Defines the visitor methods for all values that are neither a list nor an object.
macro_rules! visit_scalars {
    ($value:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
}

pub(crate) use visit_scalars;
