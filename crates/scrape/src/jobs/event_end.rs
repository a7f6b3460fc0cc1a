//! End of a task as an event reports it.

use super::inventory::EventOutcome;
use orch_base::text::printable::shortened;

/// Number of characters of a task's end that are kept. Celery itself shortens printed results to a sixtieth of this.
pub const MAX_END_CHARS: usize = 64 << 10;

/// Text of a failure for which the worker names neither exception nor cause.
const CAUSE_UNKNOWN: &str = "the worker ended the task without naming an exception; the worker's log has the cause";

/// Returns the exception of a failed task for people. A worker wraps the exceptions that it raises itself, when a pool
/// process dies or a task runs too long (`celery/worker/request.py`, `on_failure`, `on_timeout`), and sends the name of
/// the wrapper alone. The last line of the traceback then has the exception.
pub fn event_exception<'a>(text: &'a str, traceback: &'a str) -> &'a str {
    if !text.starts_with("ExceptionWithTraceback(") {
        return text;
    }
    let exceptions = traceback.lines().rev().filter_map(raised_in);
    exceptions.into_iter().next().unwrap_or(CAUSE_UNKNOWN)
}

/// Returns the exception that this line of a traceback names, without the module: `module.Class: message`.
fn raised_in(line: &str) -> Option<&str> {
    let (class, message) = line.split_once(": ").unwrap_or((line, ""));
    let is_class = |character: char| character.is_alphanumeric() || matches!(character, '.' | '_');
    if class.is_empty() || !class.chars().all(is_class) {
        return None;
    }
    let name = class.rsplit('.').next().unwrap_or(class);
    // Some exceptions print themselves with their class: `TimeLimitExceeded: TimeLimitExceeded(3,)`.
    let prints_itself = message.strip_prefix(name).is_some_and(|rest| rest.starts_with('('));
    let start = if prints_itself {
        line.len() - message.len()
    } else {
        class.len() - name.len()
    };
    Some(&line[start..])
}

/// End of a task by an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventEnd<Text = String> {
    /// Succeeded with this result, as Python prints it, maybe shortened.
    Succeeded(Text),
    /// Failed with this exception, as Python prints it.
    Failed(Text),
    Revoked(Text),
    /// Discarded by a worker.
    Rejected,
}

impl<Text> EventEnd<Text> {
    pub fn outcome(&self) -> EventOutcome {
        match self {
            EventEnd::Succeeded(_) => EventOutcome::Succeeded,
            EventEnd::Failed(_) | EventEnd::Revoked(_) => EventOutcome::Failed,
            EventEnd::Rejected => EventOutcome::Rejected,
        }
    }
}

impl EventEnd<&str> {
    /// Copies the text into `space`, and shortens a text that is too long.
    pub fn copied_into(self, mut space: String) -> EventEnd {
        let mut keep = |text: &str| {
            space.clear();
            // No text has more characters than bytes.
            if text.len() <= MAX_END_CHARS {
                space.push_str(text);
            } else {
                space = shortened(text, MAX_END_CHARS);
            }
            std::mem::take(&mut space)
        };
        match self {
            EventEnd::Succeeded(text) => EventEnd::Succeeded(keep(text)),
            EventEnd::Failed(text) => EventEnd::Failed(keep(text)),
            EventEnd::Revoked(text) => EventEnd::Revoked(keep(text)),
            EventEnd::Rejected => EventEnd::Rejected,
        }
    }
}

impl EventEnd {
    pub fn into_text(self) -> String {
        match self {
            EventEnd::Succeeded(text) | EventEnd::Failed(text) | EventEnd::Revoked(text) => text,
            EventEnd::Rejected => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_in_a_wrapper_is_read_from_the_traceback() {
        let lost = "Traceback (most recent call last):\n  File \"pool.py\", line 1367, in mark_as_worker_lost\n    \
                    raise WorkerLostError(\nbilliard.exceptions.WorkerLostError: Worker exited prematurely: signal 9 (SIGKILL).\n";
        let late = "Traceback (most recent call last):\n    raise TimeLimitExceeded(job._timeout)\n\
                    billiard.exceptions.TimeLimitExceeded: TimeLimitExceeded(3,)\n";
        for (text, traceback, exception) in [
            (
                "ExceptionWithTraceback()",
                lost,
                "WorkerLostError: Worker exited prematurely: signal 9 (SIGKILL).",
            ),
            (
                "ExceptionWithTraceback(TimeLimitExceeded())",
                late,
                "TimeLimitExceeded(3,)",
            ),
            ("ExceptionWithTraceback()", "app.Late\n", "Late"),
            ("ExceptionWithTraceback()", "", CAUSE_UNKNOWN),
            ("ExceptionWithTraceback()", "  no class: here\n", CAUSE_UNKNOWN),
            ("ValueError('no page')", lost, "ValueError('no page')"),
            ("", lost, ""),
            ("MyExceptionWithTraceback()", late, "MyExceptionWithTraceback()"),
        ] {
            assert_eq!(event_exception(text, traceback), exception, "{text} {traceback}");
        }
    }
}
