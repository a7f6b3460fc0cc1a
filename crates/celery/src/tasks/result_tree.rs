//! Children of a task, as the task's result lists them (Celery wire, observed on 5.2 to 5.7): a tree of nodes
//! `[[id, parent], null]` for a task and `[[id, parent], [nodes]]` for a group or a chord's header.
//!
//! The parser builds no intermediate JSON values, because the result of a dispatch task names thousands of chunks. The
//! parser skips values that are not nodes. The other parts of a result are in
//! [`task_result`](crate::tasks::task_result).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::wire::ids::{GroupId, TaskId};
use crate::wire::scalar_value::{ScalarValue, visit_scalars};

/// Tasks and groups that a task started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskChildren {
    pub tasks: Vec<TaskId>,
    pub groups: Vec<ChildGroup>,
    /// Tasks that run before one of `tasks`. Celery lists only the last task of a chain and the callback of an inner
    /// chord, and names the preceding task or group as their parent.
    pub upstream_tasks: Vec<TaskId>,
    /// Groups that run before one of `tasks`.
    pub upstream_groups: Vec<ChildGroup>,
}

/// Group or header of a chord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildGroup {
    pub id: GroupId,
    pub tasks: Vec<TaskId>,
}

impl TaskChildren {
    /// Adds a node; groups within a group follow the outer group.
    fn add(&mut self, node: ResultNode<'_>) {
        match node {
            ResultNode::Other => {}
            ResultNode::Task(id, parents) => {
                self.tasks.push(TaskId::from(&*id));
                self.add_upstream(parents);
            }
            ResultNode::Group(id, mut members, parents) => {
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

    fn add_upstream(&mut self, parents: TaskChildren) {
        self.upstream_tasks.extend(parents.tasks);
        self.upstream_tasks.extend(parents.upstream_tasks);
        self.upstream_groups.extend(parents.groups);
        self.upstream_groups.extend(parents.upstream_groups);
    }
}

/// List of nodes; empty for any other value.
#[derive(Default)]
pub(crate) struct ChildNodes(pub(crate) TaskChildren);

impl<'de> Deserialize<'de> for ChildNodes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(NodeList::deserialize(deserializer)?.0.unwrap_or_default()))
    }
}

/// Node of a saved group.
#[derive(Default)]
pub(crate) struct SavedGroupNode(pub(crate) TaskChildren);

impl<'de> Deserialize<'de> for SavedGroupNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = TaskChildren::default();
        found.add(ResultNode::deserialize(deserializer)?);
        Ok(Self(found))
    }
}

/// Visitor methods for all values except lists, which each visitor handles itself.
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

enum ResultNode<'de> {
    Task(Cow<'de, str>, TaskChildren),
    Group(Cow<'de, str>, TaskChildren, TaskChildren),
    Other,
}

impl<'de> Deserialize<'de> for ResultNode<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ResultNodeVisitor;

        impl<'de> Visitor<'de> for ResultNodeVisitor {
            type Value = ResultNode<'de>;

            visit_all_but_lists!(ResultNode::Other);

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ResultNode<'de>, A::Error> {
                let head: Option<NodeHead<'de>> = items.next_element()?;
                let members: Option<NodeList> = items.next_element()?;
                let mut is_pair = true;
                while items.next_element::<IgnoredAny>()?.is_some() {
                    is_pair = false;
                }
                Ok(match (head, members) {
                    (Some(NodeHead(Some((id, parents)))), Some(NodeList(Some(members)))) if is_pair => {
                        ResultNode::Group(id, members, parents)
                    }
                    (Some(NodeHead(Some((id, parents)))), Some(NodeList(None))) if is_pair => {
                        ResultNode::Task(id, parents)
                    }
                    _ => ResultNode::Other,
                })
            }
        }

        deserializer.deserialize_any(ResultNodeVisitor)
    }
}

/// Children in a list; `None` if the value is not a list.
struct NodeList(Option<TaskChildren>);

impl<'de> Deserialize<'de> for NodeList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeListVisitor;

        impl<'de> Visitor<'de> for NodeListVisitor {
            type Value = NodeList;

            visit_all_but_lists!(NodeList(None));

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NodeList, A::Error> {
                let mut found = TaskChildren::default();
                while let Some(node) = items.next_element()? {
                    found.add(node);
                }
                Ok(NodeList(Some(found)))
            }
        }

        deserializer.deserialize_any(NodeListVisitor)
    }
}

/// Head of a node, `[id, parent]`, with all ancestors; a parent is a node or only an id.
struct NodeHead<'de>(Option<(Cow<'de, str>, TaskChildren)>);

impl<'de> Deserialize<'de> for NodeHead<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeHeadVisitor;

        impl<'de> Visitor<'de> for NodeHeadVisitor {
            type Value = NodeHead<'de>;

            visit_all_but_lists!(NodeHead(None));

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NodeHead<'de>, A::Error> {
                let id: Option<ScalarValue<'de>> = items.next_element()?;
                let mut parents = TaskChildren::default();
                while let Some(parent) = items.next_element()? {
                    parents.add(parent);
                }
                Ok(NodeHead(match id {
                    Some(ScalarValue::Text(id)) => Some((id, parents)),
                    _ => None,
                }))
            }
        }

        deserializer.deserialize_any(NodeHeadVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_run_before_a_member_of_a_header_are_upstream() {
        // A chord within a chord's header, and a chain within it, as Celery 5.4 writes them.
        let text = r#"[[["outer", null], [
            [["inner callback", [["inner", null], [[["one", null], null], [["two", null], null]]]], null],
            [["last", [["middle", [["first", null], null]], null]], null], [["plain", "parent"], null]
        ]]]"#;
        let ChildNodes(found) = serde_json::from_str(text).unwrap();
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
    fn groups_differ_from_tasks_and_invalid_nodes_are_skipped() {
        let text = r#"[
            [["child", null], null],
            [["group", ["parent", null]], [[["first", null], null], [["s\u00e9cond", null], null], [["nested", null], []]]],
            "nonsense", [], [[7, null], null], [["three", null], null, 1], {"a": [1]}, [["alone", null]], ["text", null], 7, true,
            [[["deep"], null], null], [["with a text", null], "x"], [["with an object", null], {"a": 1}]
        ]"#;
        let ChildNodes(found) = serde_json::from_str(text).unwrap();
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
            let ChildNodes(found) = serde_json::from_str(none).unwrap();
            assert_eq!(found, TaskChildren::default(), "{none}");
        }
    }
}
