//! Exceptions as texts of one form, `ValueError: no page 7`, whatever their source is.
//!
//! An event has the exception as Python prints it, `ValueError('no page 7')`; a stored result has class and arguments
//! apart (Celery wire, observed on 5.2 to 5.7).

use serde_json::Value;

use crate::jobs::python_literal;
use orch_celery::{TaskFailure, TaskId};

/// Returns the exception of an event as `Class: message`.
pub(crate) fn from_event(printed: &str) -> String {
    let printed = printed.trim();
    let Some((class, arguments)) = printed.strip_suffix(')').and_then(|call| call.split_once('(')) else {
        return printed.to_owned();
    };
    if class.is_empty()
        || !class
            .chars()
            .all(|character| character.is_alphanumeric() || "._".contains(character))
    {
        return printed.to_owned();
    }
    let message = match python_literal::parse(&format!("[{arguments}]")) {
        Some(Value::Array(arguments)) => arguments.iter().map(argument).collect::<Vec<_>>().join(", "),
        _ => arguments.to_owned(),
    };
    joined(class, &message)
}

/// Returns the exception of a stored result as `Class: message`.
pub(crate) fn from_result(failure: &TaskFailure) -> String {
    joined(&failure.exc_type, &failure.exc_message)
}

/// Reads the failed task of a chord's header, and its exception, from the failure of the callback: Celery writes
/// `Dependency ID raised EXCEPTION` (`celery/backends/redis.py`, `on_chord_part_return`).
pub(crate) fn of_chord_error(failure: &TaskFailure) -> Option<(TaskId, String)> {
    let rest = failure.is_chord_error().then_some(&failure.exc_message)?;
    let (task, printed) = rest.strip_prefix("Dependency ")?.split_once(" raised ")?;
    Some((TaskId::from(task), from_event(printed)))
}

fn argument(argument: &Value) -> String {
    match argument {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn joined(class: &str, message: &str) -> String {
    match (class, message.trim()) {
        ("", message) => message.to_owned(),
        (class, "") => class.to_owned(),
        (class, message) => format!("{class}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_and_a_result_give_the_same_text() {
        for (printed, exc_type, exc_message, text) in [
            (
                "ValueError('no page 7')",
                "ValueError",
                "no page 7",
                "ValueError: no page 7",
            ),
            (
                "ValueError(\"can't read\")",
                "ValueError",
                "can't read",
                "ValueError: can't read",
            ),
            (
                "OSError(2, 'No such file')",
                "OSError",
                "2, No such file",
                "OSError: 2, No such file",
            ),
            (
                "SoftTimeLimitExceeded()",
                "SoftTimeLimitExceeded",
                "",
                "SoftTimeLimitExceeded",
            ),
            ("app.errors.Late()", "app.errors.Late", "", "app.errors.Late"),
            ("KeyError('a(b)')", "KeyError", "a(b)", "KeyError: a(b)"),
        ] {
            assert_eq!(from_event(printed), text);
            let failure = TaskFailure {
                exc_type: exc_type.to_owned(),
                exc_message: exc_message.to_owned(),
                ..TaskFailure::default()
            };
            assert_eq!(from_result(&failure), text);
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for (printed, text) in [
            ("", ""),
            ("rejected", "rejected"),
            ("('a', 1)", "('a', 1)"),
            ("<Failed at 0x7f>", "<Failed at 0x7f>"),
            ("HTTPError(<Response [404]>)", "HTTPError: <Response [404]>"),
            ("two words(1)", "two words(1)"),
            ("open(", "open("),
        ] {
            assert_eq!(from_event(printed), text);
        }
    }

    #[test]
    fn the_failure_of_a_callback_names_the_task_of_the_header() {
        let mut failure = TaskFailure {
            exc_type: "ChordError".to_owned(),
            exc_message: "Dependency 0a-1 raised ValueError('no page 7')".to_owned(),
            ..TaskFailure::default()
        };
        let expected = (TaskId::from("0a-1"), "ValueError: no page 7".to_owned());
        assert_eq!(of_chord_error(&failure), Some(expected));
        failure.exc_type = "ValueError".to_owned();
        assert_eq!(of_chord_error(&failure), None);
        failure.exc_type = "ChordError".to_owned();
        failure.exc_message = "GroupResult 5 no longer exists".to_owned();
        assert_eq!(of_chord_error(&failure), None);
    }
}
