//! What a task started, as its result lists it (Celery wire, observed on 5.2 to 5.7): a tree of nodes
//! `[[id, parent], null]` for a task and `[[id, parent], [nodes]]` for a group or a chord's header.
//!
//! Read without building values in between: a dispatch task's result names thousands of chunks. What is no node is passed
//! over. Not here: the rest of a result (`task_result`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::event_decode::visit_scalars;
use super::field::Field;
use super::{GroupId, TaskId};

/// What a task started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Children {
    pub tasks: Vec<TaskId>,
    pub groups: Vec<ChildGroup>,
}

/// A group or a chord's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildGroup {
    pub id: GroupId,
    pub tasks: Vec<TaskId>,
}

impl Children {
    /// Groups within a group come after it.
    fn add(&mut self, node: Node<'_>) {
        match node {
            Node::Other => {}
            Node::Task(id) => self.tasks.push(TaskId::from(&*id)),
            Node::Group(id, mut members) => {
                self.groups.push(ChildGroup {
                    id: GroupId::from(&*id),
                    tasks: members.tasks,
                });
                self.groups.append(&mut members.groups);
            }
        }
    }
}

/// A list of nodes; empty for whatever is none.
#[derive(Default)]
pub(super) struct Nodes(pub(super) Children);

impl<'de> Deserialize<'de> for Nodes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(List::deserialize(deserializer)?.0.unwrap_or_default()))
    }
}

/// The one node that a saved group is.
#[derive(Default)]
pub(super) struct Root(pub(super) Children);

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Children::default();
        found.add(Node::deserialize(deserializer)?);
        Ok(Self(found))
    }
}

/// Answers of a visitor for all that is no list; a list's are its own.
macro_rules! visit_all_but_lists {
    ($other:expr) => {
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a part of a result tree")
        }
        visit_scalars!($other);
        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($other)
        }
    };
}

enum Node<'de> {
    Task(Cow<'de, str>),
    Group(Cow<'de, str>, Children),
    Other,
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Node<'de>;

            visit_all_but_lists!(Node::Other);

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node<'de>, A::Error> {
                let head: Option<Head<'de>> = items.next_element()?;
                let members: Option<List> = items.next_element()?;
                let mut is_pair = true;
                while items.next_element::<IgnoredAny>()?.is_some() {
                    is_pair = false;
                }
                Ok(match (head, members) {
                    (Some(Head(Some(id))), Some(List(Some(members)))) if is_pair => Node::Group(id, members),
                    (Some(Head(Some(id))), Some(List(None))) if is_pair => Node::Task(id),
                    _ => Node::Other,
                })
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// `None` for whatever is no list.
struct List(Option<Children>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = List;

            visit_all_but_lists!(List(None));

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List, A::Error> {
                let mut found = Children::default();
                while let Some(node) = items.next_element()? {
                    found.add(node);
                }
                Ok(List(Some(found)))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// The id at the begin of `[id, parent]`.
struct Head<'de>(Option<Cow<'de, str>>);

impl<'de> Deserialize<'de> for Head<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Head<'de>;

            visit_all_but_lists!(Head(None));

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Head<'de>, A::Error> {
                let id: Option<Field<'de>> = items.next_element()?;
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Head(match id {
                    Some(Field::Text(id)) => Some(id),
                    _ => None,
                }))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_told_from_tasks_and_nonsense_is_passed_over() {
        let text = r#"[
            [["child", null], null],
            [["group", ["parent", null]], [[["first", null], null], [["s\u00e9cond", null], null], [["nested", null], []]]],
            "nonsense", [], [[7, null], null], [["three", null], null, 1], {"a": [1]}, [["alone", null]], ["text", null], 7, true,
            [[["deep"], null], null], [["with a text", null], "x"], [["with an object", null], {"a": 1}]
        ]"#;
        let Nodes(found) = serde_json::from_str(text).unwrap();
        let tasks = ["child", "with a text", "with an object"].map(TaskId::from);
        assert_eq!(found.tasks, tasks);
        let group = |id: &str, tasks: &[&str]| ChildGroup {
            id: GroupId::from(id),
            tasks: tasks.iter().map(|task| TaskId::from(*task)).collect(),
        };
        assert_eq!(
            found.groups,
            [group("group", &["first", "sécond"]), group("nested", &[])]
        );
        for none in ["null", "{}", "7", "\"x\""] {
            let Nodes(found) = serde_json::from_str(none).unwrap();
            assert_eq!(found, Children::default(), "{none}");
        }
    }
}
