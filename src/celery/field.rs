//! A value of which a text, a flag or a number matters, borrowed where it can be.
//!
//! Not that of whole events (`event_decode`): there lists and objects are built, which a message from outside could make
//! large; here they are passed over.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::event_decode::LONGEST_NAME;

/// What a value is, as far as it matters.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Field<'de> {
    Text(Cow<'de, str>),
    Flag(bool),
    Number(f64),
    #[default]
    Other,
}

impl Field<'_> {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Flag(_) | Self::Number(_) | Self::Other => None,
        }
    }

    /// What is remembered: nothing that is too long for it.
    pub(super) fn name(&self) -> Option<&str> {
        self.text().filter(|text| text.len() <= LONGEST_NAME)
    }

    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) | Self::Flag(_) | Self::Other => None,
        }
    }

    pub(super) fn is_set(&self) -> bool {
        matches!(self, Self::Flag(true))
    }
}

impl<'de> Deserialize<'de> for Field<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Field<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Field<'de>, E> {
                Ok(Field::Flag(value))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Field<'de>, E> {
                Ok(Field::Number(number as f64))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Field<'de>, E> {
                Ok(Field::Number(number as f64))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Field<'de>, E> {
                Ok(Field::Number(number))
            }

            fn visit_unit<E>(self) -> Result<Field<'de>, E> {
                Ok(Field::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Field<'de>, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Field::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Field<'de>, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::Other)
            }
        }

        deserializer.deserialize_any(Any)
    }
}
