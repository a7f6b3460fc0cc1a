//! A task to publish: its name, or a table with arguments; and the pace at which its job is expected to go on.

use std::time::Duration;

use serde_json::Map;

use crate::config::item::Item;
use crate::config::model::{Pace, TaskCall};
use crate::config::section::Section;
use crate::config::tree::Value;

impl Default for Pace {
    fn default() -> Self {
        Self {
            time_per_chunk: Duration::from_secs(60),
            buffer: 1.5,
            timeout_min: Duration::from_secs(5 * 60),
            timeout_default: Duration::from_secs(30 * 60),
        }
    }
}

/// The keys of the dynamic timeout, which stand among the others of `[proxies]` and of a site.
pub(super) fn pace(section: &Section<'_>) -> Pace {
    let default = Pace::default();
    Pace {
        time_per_chunk: section.or("time_per_chunk", default.time_per_chunk, Item::positive_duration),
        buffer: section.or("buffer", default.buffer, |item| item.number(0.1..=100.0)),
        timeout_min: section.or("timeout_min", default.timeout_min, Item::duration),
        timeout_default: section.or("timeout_default", default.timeout_default, Item::positive_duration),
    }
}

/// `"module.task"`, or `{ task = "module.task", args = [...], kwargs = {...}, queue = "...", immutable = false }`.
pub(super) fn task(item: &Item<'_>) -> Option<TaskCall> {
    let Some(section) = Section::of(item, item.span()) else {
        let Value::Text(_) = item.node.value else {
            item.wrong("a task's name, or a table with `task`");
            return None;
        };
        return Some(TaskCall {
            task: task_name(item)?,
            args: Vec::new(),
            kwargs: Map::new(),
            queue: None,
            immutable: false,
        });
    };
    let call = TaskCall {
        task: section.required("task", "\"module.task\"", task_name),
        args: section.or("args", Vec::new(), |item| item.list(|item| Some(item.json()))),
        kwargs: section.or("kwargs", Map::new(), |item| {
            let entries = item.entries()?.into_iter();
            Some(entries.map(|(key, value)| (key.name.clone(), value.json())).collect())
        }),
        queue: section.read("queue", Item::line),
        immutable: section.or("immutable", false, Item::boolean),
    };
    section.finish();
    Some(call)
}

pub(super) fn task_name(item: &Item<'_>) -> Option<String> {
    let name = item.line()?;
    if name.contains(|character: char| character.is_whitespace() || character == '(') {
        return item.report(item.problem(
            format!("`{name}` is not a task's name"),
            "a task is named as Celery registers it, such as `module.task`",
        ));
    }
    Some(name)
}
