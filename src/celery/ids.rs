//! Celery's ids as types, so that a group id is never taken for a task id.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

macro_rules! wire_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps an id as it stands on the wire.
            pub fn new(id: impl Into<String>) -> Self {
                Self(id.into())
            }

            /// The bare text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }
    };
}

wire_id!(
    /// Id of a group or of a chord's header.
    GroupId
);
wire_id!(
    /// A worker's node name, such as `nightly@host`: key of control replies, `hostname` of events.
    NodeName
);

/// Characters of a UUID as Celery writes it.
const UUID: usize = 36;

/// Id of one task, normally a UUID, but Celery takes any text.
///
/// What is as long as a UUID takes no memory of its own: ids are copied, kept and looked up several times with each event.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TaskId(Id);

/// A text is always of the same variant, so that equal ones are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Id {
    /// ASCII.
    Short([u8; UUID]),
    Any(Box<str>),
}

impl Id {
    fn short(text: &str) -> Option<Self> {
        let bytes: &[u8; UUID] = text.as_bytes().try_into().ok()?;
        bytes.is_ascii().then_some(Self::Short(*bytes))
    }
}

impl TaskId {
    /// Wraps an id as it stands on the wire.
    pub fn new(id: impl Into<String>) -> Self {
        Self::from(id.into())
    }

    /// A new random id.
    pub fn random() -> Self {
        let mut text = uuid::Uuid::encode_buffer();
        Self::from(&*random_uuid().hyphenated().encode_lower(&mut text))
    }

    /// The bare text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // ASCII is always text.
            Id::Short(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Id::Any(text) => text,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Id::Short(bytes) => bytes,
            Id::Any(text) => text.as_bytes(),
        }
    }
}

impl From<&str> for TaskId {
    fn from(id: &str) -> Self {
        Self(Id::short(id).unwrap_or_else(|| Id::Any(id.into())))
    }
}

impl From<String> for TaskId {
    fn from(id: String) -> Self {
        Self(Id::short(&id).unwrap_or_else(|| Id::Any(id.into())))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("TaskId").field(&self.as_str()).finish()
    }
}

/// By the text.
impl Ord for TaskId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for TaskId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for TaskId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = TaskId;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<TaskId, E> {
                Ok(TaskId::from(text))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl GroupId {
    /// A new random id.
    pub fn random() -> Self {
        Self(random_uuid().to_string())
    }
}

/// Random bytes of the kernel that are not used yet: one call serves many ids.
struct RandomBytes {
    bytes: [u8; 1024],
    left: usize,
}

thread_local! {
    static RANDOM_BYTES: RefCell<RandomBytes> = const { RefCell::new(RandomBytes { bytes: [0; 1024], left: 0 }) };
}

impl RandomBytes {
    /// Bytes that have not been given out; none where the kernel has none.
    fn take(&mut self) -> Option<[u8; 16]> {
        if self.left < 16 {
            self.left = getrandom(&mut self.bytes, GetRandomFlags::empty()).ok()?;
        }
        let start = self.left.checked_sub(16)?;
        let taken = self.bytes.get(start..self.left)?.try_into().ok()?;
        self.left = start;
        Some(taken)
    }
}

/// A random UUID. This process is not copied without an execution, so that none is given out twice.
pub(super) fn random_uuid() -> uuid::Uuid {
    let bytes = RANDOM_BYTES.with_borrow_mut(RandomBytes::take);
    bytes.map_or_else(uuid::Uuid::new_v4, |bytes| {
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn random_ids_are_of_version_4_and_differ() {
        let ids: std::collections::HashSet<uuid::Uuid> = (0..1000).map(|_| random_uuid()).collect();
        assert_eq!(ids.len(), 1000);
        let is_random = |id: &uuid::Uuid| id.get_version_num() == 4 && id.get_variant() == uuid::Variant::RFC4122;
        assert!(ids.iter().all(is_random));
    }

    proptest! {
        #[test]
        fn a_task_s_id_is_its_text(one in "[a-fä-]{34,37}", other in any::<String>()) {
            for text in [&one, &other] {
                let id = TaskId::from(text.as_str());
                prop_assert_eq!(id.as_str(), text.as_str());
                prop_assert_eq!(&id, &TaskId::from(text.clone()));
                let written = serde_json::to_string(&id).expect("a text");
                prop_assert_eq!(&written, &serde_json::to_string(text).expect("a text"));
                prop_assert_eq!(id, serde_json::from_str(&written).expect("a text"));
            }
            prop_assert_eq!(one.cmp(&other), TaskId::from(one).cmp(&TaskId::from(other)));
        }
    }
}
