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
    /// Tasks and groups that run before one of these: Celery names the last link of a chain, and the callback of a chord
    /// within a chord, with what comes before it as its parent.
    pub upstream_tasks: Vec<TaskId>,
    pub upstream_groups: Vec<ChildGroup>,
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
            Node::Task(id, parents) => {
                self.tasks.push(TaskId::from(&*id));
                self.add_upstream(parents);
            }
            Node::Group(id, mut members, parents) => {
                self.groups.push(ChildGroup {
                    id: GroupId::from(&*id),
                    tasks: members.tasks,
                });
                self.groups.append(&mut members.groups);
                self.upstream_tasks.append(&mut members.upstream_tasks);
                self.upstream_groups.append(&mut members.upstream_groups);
                self.add_upstream(parents);
            }
        }
    }

    fn add_upstream(&mut self, parents: Children) {
        self.upstream_tasks.extend(parents.tasks);
        self.upstream_tasks.extend(parents.upstream_tasks);
        self.upstream_groups.extend(parents.groups);
        self.upstream_groups.extend(parents.upstream_groups);
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
    Task(Cow<'de, str>, Children),
    Group(Cow<'de, str>, Children, Children),
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
                    (Some(Head(Some((id, parents)))), Some(List(Some(members)))) if is_pair => {
                        Node::Group(id, members, parents)
                    }
                    (Some(Head(Some((id, parents)))), Some(List(None))) if is_pair => Node::Task(id, parents),
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

/// `[id, parent]`, with all that comes before the parent; a parent is a node or only an id.
struct Head<'de>(Option<(Cow<'de, str>, Children)>);

impl<'de> Deserialize<'de> for Head<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Head<'de>;

            visit_all_but_lists!(Head(None));

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Head<'de>, A::Error> {
                let id: Option<Field<'de>> = items.next_element()?;
                let mut parents = Children::default();
                while let Some(parent) = items.next_element()? {
                    parents.add(parent);
                }
                Ok(Head(match id {
                    Some(Field::Text(id)) => Some((id, parents)),
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
    fn what_runs_before_a_member_of_a_header_is_upstream() {
        // A chord within a chord's header, and a chain within it, as Celery 5.4 writes them.
        let text = r#"[[["outer", null], [
            [["inner callback", [["inner", null], [[["one", null], null], [["two", null], null]]]], null],
            [["last", [["middle", [["first", null], null]], null]], null], [["plain", "parent"], null]
        ]]]"#;
        let Nodes(found) = serde_json::from_str(text).unwrap();
        let ids = |ids: &[&str]| ids.iter().map(|id| TaskId::from(*id)).collect::<Vec<_>>();
        assert_eq!(found.tasks, ids(&[]));
        let [outer] = found.groups.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(outer.tasks, ids(&["inner callback", "last", "plain"]));
        assert_eq!(found.upstream_tasks, ids(&["middle", "first"]));
        let [inner] = found.upstream_groups.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(
            (inner.id.as_str(), inner.tasks.clone()),
            ("inner", ids(&["one", "two"]))
        );
    }

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
