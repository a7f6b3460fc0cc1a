//! End of a task as an event reports it.

use super::inventory::EventOutcome;
use orch_base::text::printable::shortened;

/// Number of characters of a task's end that are kept. Celery itself shortens printed results to a sixtieth of this.
pub const MAX_END_CHARS: usize = 64 << 10;

/// Text of the failure of a task whose pool process died.
const PROCESS_DIED: &str = "WorkerLostError: the pool process of the task died; the worker's log names the signal";

/// Returns the exception of a failed task for people. A worker wraps the exception that it raises itself when a pool process
/// dies (`celery/worker/request.py`, `on_failure`), and sends the name of the wrapper alone.
pub fn event_exception(text: &str) -> &str {
    if text.starts_with("ExceptionWithTraceback(") {
        PROCESS_DIED
    } else {
        text
    }
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
    fn the_wrapper_of_an_exception_is_explained_and_other_texts_stay() {
        assert_eq!(event_exception("ExceptionWithTraceback()"), PROCESS_DIED);
        assert_eq!(
            event_exception("ExceptionWithTraceback(WorkerLostError())"),
            PROCESS_DIED
        );
        for text in ["ValueError('no page')", "", "MyExceptionWithTraceback()"] {
            assert_eq!(event_exception(text), text);
        }
    }
}
