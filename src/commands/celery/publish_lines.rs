//! Tasks from standard input, one JSON object per line: all lines are read and checked before the first task is
//! published.
//!
//! Until then only the text of the lines is kept, because a task takes ten times the memory of a line.

use std::collections::BTreeSet;
use std::io::{BufRead, Read};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use orch_base::text::large_integer;
use orch_celery::{Error, Task, TaskId};

/// Size limit of standard input in bytes, because all lines are kept in memory.
const LARGEST_INPUT: u64 = 1 << 30;
/// Size limit of one line in bytes: workers and orch accept no larger message.
const LONGEST_LINE: u64 = 64 << 20;

/// Values for fields that a line leaves out.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskDefaults<'a> {
    pub queue: Option<&'a str>,
    pub priority: u8,
}

/// JSON form of a task in a line of standard input.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskLine {
    task: String,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default)]
    kwargs: Map<String, Value>,
    queue: Option<String>,
    priority: Option<u8>,
    id: Option<String>,
    #[serde(default)]
    headers: Map<String, Value>,
    eta: Option<String>,
    expires: Option<String>,
    countdown: Option<f64>,
    time_limit: Option<f64>,
    soft_time_limit: Option<f64>,
}

/// Checked lines of standard input.
#[derive(Default)]
pub struct TaskLines<'a> {
    text: Vec<u8>,
    defaults: TaskDefaults<'a>,
    /// Number of tasks.
    pub count: usize,
    /// Queues of the tasks.
    pub queues: BTreeSet<String>,
    /// Queues of the tasks with a priority.
    pub queues_with_priority: BTreeSet<String>,
}

impl<'a> TaskLines<'a> {
    /// Reads and checks all lines.
    ///
    /// # Errors
    /// The input cannot be read, or a line is not a valid task; the text names the line.
    pub fn read(input: impl BufRead, defaults: TaskDefaults<'a>) -> Result<Self, String> {
        let mut input = input.take(LARGEST_INPUT + 1);
        let mut lines = Self {
            defaults,
            ..Self::default()
        };
        for number in 1.. {
            let start = lines.text.len();
            // Limits the length, because a line without an end would otherwise be read for ever.
            let length = (&mut input)
                .take(LONGEST_LINE + 1)
                .read_until(b'\n', &mut lines.text)
                .map_err(|error| format!("could not read standard input: {error}"))?;
            if length == 0 {
                break;
            }
            if length as u64 > LONGEST_LINE {
                return Err(format!(
                    "line {number} of standard input is longer than {LONGEST_LINE} bytes; no task is published"
                ));
            }
            if input.limit() == 0 {
                return Err(format!(
                    "standard input is larger than {LARGEST_INPUT} bytes: publish the tasks in parts"
                ));
            }
            let line = lines.text.get(start..).unwrap_or_default();
            if is_blank(line) {
                continue;
            }
            let task = task_of(line, defaults)
                .and_then(|task| task.check().map(|()| task).map_err(|error| error.to_string()))
                .map_err(|why| format!("line {number} of standard input: {why}; no task is published"))?;
            lines.note(&task);
        }
        Ok(lines)
    }

    fn note(&mut self, task: &Task) {
        self.count += 1;
        let queue = task.destination();
        if !self.queues.contains(queue) {
            self.queues.insert(queue.to_owned());
        }
        if task.priority > 0 && !self.queues_with_priority.contains(queue) {
            self.queues_with_priority.insert(queue.to_owned());
        }
    }

    /// Returns the tasks in the order of the lines.
    pub fn tasks(&self) -> impl Iterator<Item = orch_celery::Result<Task>> {
        let lines = self.text.split(|byte| *byte == b'\n').filter(|line| !is_blank(line));
        lines.map(|line| {
            task_of(line, self.defaults).map_err(|reason| Error::InvalidTask {
                task: "of a line of standard input".to_owned(),
                reason,
            })
        })
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

fn task_of(line: &[u8], defaults: TaskDefaults<'_>) -> Result<Task, String> {
    let line: TaskLine = large_integer::from_slice(line)?;
    let span = |name: &str, seconds: Option<f64>| {
        seconds
            .map(|seconds| Duration::try_from_secs_f64(seconds).map_err(|error| format!("`{name}`: {error}")))
            .transpose()
    };
    let instant = |name: &str, text: Option<String>| {
        text.map(|text| text.parse::<Timestamp>().map_err(|error| format!("`{name}`: {error}")))
            .transpose()
    };
    let mut task = Task::new(line.task).args(line.args);
    task.kwargs = line.kwargs;
    task.headers = line.headers;
    if let Some(id) = line.id {
        task.id = TaskId::new(id);
    }
    task.queue = line.queue.or_else(|| defaults.queue.map(str::to_owned));
    task.priority = line.priority.unwrap_or(defaults.priority);
    task.eta = instant("eta", line.eta)?;
    if let Some(delay) = span("countdown", line.countdown)? {
        task = task.countdown(delay);
    }
    task.expires = instant("expires", line.expires)?;
    task.time_limit = span("time_limit", line.time_limit)?;
    task.soft_time_limit = span("soft_time_limit", line.soft_time_limit)?;
    Ok(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: TaskDefaults<'_> = TaskDefaults {
        queue: Some("pages"),
        priority: 3,
    };

    #[test]
    fn published_tasks_are_the_checked_ones() {
        let text = "{\"task\": \"a\", \"id\": \"1\"}\n\n  \r\n{\"task\": \"b\", \"id\": \"2\", \"queue\": \"slow\", \"priority\": 0}";
        let lines = TaskLines::read(text.as_bytes(), DEFAULTS).unwrap();
        let tasks: Vec<Task> = lines.tasks().collect::<Result<_, _>>().unwrap();
        let read = |task: &Task| {
            let (name, id) = (task.name.clone(), task.id.to_string());
            (name, id, task.destination().to_owned(), task.priority)
        };
        let published: Vec<_> = tasks.iter().map(read).collect();
        let expected = [("a", "1", "pages", 3), ("b", "2", "slow", 0)];
        let expected =
            expected.map(|(name, id, queue, priority)| (name.to_owned(), id.to_owned(), queue.to_owned(), priority));
        assert_eq!(published, expected);
        assert_eq!(lines.count, 2);
        assert!(lines.queues.iter().eq(["pages", "slow"]));
        assert!(lines.queues_with_priority.iter().eq(["pages"]));
    }

    #[test]
    fn a_line_that_is_no_task_is_named() {
        for (line, why) in [
            ("{\"task\": \"a\", \"oops\": 1}", "unknown field `oops`"),
            ("{\"task\": \" \"}", "its name is empty"),
            ("{\"task\": \"a\", \"eta\": \"soon\"}", "`eta`"),
            ("{\"task\": \"a\", \"time_limit\": -1}", "`time_limit`"),
            ("[]", "invalid"),
        ] {
            let text = format!("{{\"task\": \"a\"}}\n\n{line}\n");
            let Err(error) = TaskLines::read(text.as_bytes(), DEFAULTS) else {
                panic!("{line} is accepted");
            };
            assert!(error.starts_with("line 3 of standard input: "), "{error}");
            assert!(
                error.contains(why) && error.ends_with("; no task is published"),
                "{error}"
            );
        }
    }
}
