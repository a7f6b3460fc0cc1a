//! A task to publish: its name, or a table with arguments; and the parameters of the dynamic timeout of its job.

use std::time::Duration;

use serde_json::Map;

use super::item::ConfigItem;
use super::section::Section;
use crate::model::{DynamicTimeout, TaskCall};
use crate::syntax::tree::SyntaxValue;

impl Default for DynamicTimeout {
    fn default() -> Self {
        Self {
            time_per_chunk: Duration::from_secs(60),
            buffer: 1.5,
            timeout_min: Duration::from_secs(5 * 60),
            timeout_default: Duration::from_secs(30 * 60),
        }
    }
}

/// Reads the keys of the dynamic timeout, which are part of `[proxies]` and of a site.
pub(crate) fn pace(section: &Section<'_>) -> DynamicTimeout {
    let default = DynamicTimeout::default();
    DynamicTimeout {
        time_per_chunk: section.read_or("time_per_chunk", default.time_per_chunk, ConfigItem::positive_duration),
        buffer: section.read_or("buffer", default.buffer, |item| item.number(0.1..=100.0)),
        timeout_min: section.read_or("timeout_min", default.timeout_min, ConfigItem::duration),
        timeout_default: section.read_or(
            "timeout_default",
            default.timeout_default,
            ConfigItem::positive_duration,
        ),
    }
}

/// Reads `"module.task"`, or `{ task = "module.task", args = [...], kwargs = {...}, queue = "...", immutable = false
/// }`.
pub(crate) fn task(item: &ConfigItem<'_>) -> Option<TaskCall> {
    let Some(section) = Section::of(item, item.span()) else {
        let SyntaxValue::Text(_) = item.node.value else {
            return item.wrong("a task's name, or a table with `task`");
        };
        return Some(TaskCall {
            task: task_name(item)?,
            ..TaskCall::default()
        });
    };
    let call = TaskCall {
        task: section.required("task", "\"module.task\"", task_name),
        args: section.read_or("args", Vec::new(), |item| item.list(|item| Some(item.json()))),
        kwargs: section.read_or("kwargs", Map::new(), ConfigItem::json_entries),
        queue: section.read("queue", ConfigItem::line),
        immutable: section.read_or("immutable", false, ConfigItem::boolean),
    };
    section.finish();
    Some(call)
}

pub(crate) fn task_name(item: &ConfigItem<'_>) -> Option<String> {
    let name = item.line()?;
    if name.contains(|character: char| character.is_whitespace() || character == '(') {
        return item.refuse(
            format!("`{name}` is not a task name"),
            "write the name with which Celery registers the task, such as `module.task`",
        );
    }
    Some(name)
}
