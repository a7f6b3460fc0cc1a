//! Types of Celery's ids, so that a group id cannot be used as a task id.

use std::borrow::Cow;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::fmt;

use orch_base::text_id;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

text_id!(
    /// Id of a group or of a chord's header.
    GroupId
);
text_id!(
    /// Node name of a worker, such as `nightly@host`: key of control replies, `hostname` of events.
    NodeName
);

/// Longest accepted id, task name or node name in bytes. Ids of Celery have 36 bytes, a host name has at most 255.
/// These texts are kept for hundreds of thousands of events, so longer ones are rejected.
pub(crate) const LONGEST_NAME: usize = 512;

/// Characters of a UUID in Celery's format.
const UUID_LENGTH: usize = 36;

/// Id of one task: normally a UUID, but Celery accepts any text.
///
/// An id with the length of a UUID is stored inline without an allocation, because ids are copied, stored and looked up
/// several times for each event.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TaskId(IdText);

/// Text of an id. Equal texts always have the same variant, so the derived comparison is correct.
#[derive(Clone, PartialEq, Eq, Hash)]
enum IdText {
    /// ASCII text with the length of a UUID.
    Short([u8; UUID_LENGTH]),
    Other(Box<str>),
}

impl IdText {
    fn short(text: &str) -> Option<Self> {
        let bytes: &[u8; UUID_LENGTH] = text.as_bytes().try_into().ok()?;
        bytes.is_ascii().then_some(Self::Short(*bytes))
    }
}

impl TaskId {
    /// Wraps the id in the form that it has on the wire.
    pub fn new(id: impl Into<String>) -> Self {
        Self::from(id.into())
    }

    /// Creates a random id.
    pub fn random() -> Self {
        let mut text = uuid::Uuid::encode_buffer();
        Self::from(&*random_uuid().hyphenated().encode_lower(&mut text))
    }

    /// Returns the text of the id.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // ASCII is always valid UTF-8.
            IdText::Short(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            IdText::Other(text) => text,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            IdText::Short(bytes) => bytes,
            IdText::Other(text) => text.as_bytes(),
        }
    }
}

impl From<&str> for TaskId {
    fn from(id: &str) -> Self {
        Self(IdText::short(id).unwrap_or_else(|| IdText::Other(id.into())))
    }
}

impl From<String> for TaskId {
    fn from(id: String) -> Self {
        Self(IdText::short(&id).unwrap_or_else(|| IdText::Other(id.into())))
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

/// Order of the texts.
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
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct BorrowedId<'a>(#[serde(borrow)] Cow<'a, str>);
        BorrowedId::deserialize(deserializer).map(|id| Self::from(&*id.0))
    }
}

impl GroupId {
    /// Creates a random id.
    pub fn random() -> Self {
        Self(random_uuid().to_string())
    }
}

/// Unused random bytes of the kernel: one system call is enough for many ids.
struct RandomBytes {
    bytes: [u8; 1024],
    left: usize,
}

thread_local! {
    static RANDOM_BYTES: RefCell<RandomBytes> = const { RefCell::new(RandomBytes { bytes: [0; 1024], left: 0 }) };
}

impl RandomBytes {
    /// Takes 16 unused bytes; `None` if the kernel provides no random bytes.
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

/// Creates a random UUID. No process forks without a following `exec`, so the buffered bytes are never used twice.
pub(crate) fn random_uuid() -> uuid::Uuid {
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
