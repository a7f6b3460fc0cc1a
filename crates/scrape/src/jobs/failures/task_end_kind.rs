//! Kind of a task's end, from the class of its exception.

use orch_journal::TaskEndKind;

/// Returns the kind of a failed task from its exception, `Class: message`.
pub(crate) fn of_exception(exception: &str) -> TaskEndKind {
    let (class, message) = exception.split_once(':').unwrap_or((exception, ""));
    let class = class.rsplit('.').next().unwrap_or(class);
    match class {
        "TimeLimitExceeded" | "SoftTimeLimitExceeded" => TaskEndKind::TimeLimit,
        "WorkerLostError" | "Terminated" | "WorkerTerminate" => TaskEndKind::ProcessLost,
        // The worker discards a message that has expired as if the task was revoked (`celery/worker/request.py`).
        "TaskRevokedError" if message.trim() == "expired" => TaskEndKind::Expired,
        "TaskRevokedError" => TaskEndKind::Revoked,
        "ChordError" => TaskEndKind::HeaderFailed,
        "EncodeError" | "ContentDisallowed" | "MaybeEncodingError" => TaskEndKind::ResultUnstorable,
        "TypeError" if message.ends_with("is not JSON serializable") => TaskEndKind::ResultUnstorable,
        _ => TaskEndKind::Raised,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_an_exception_gives_the_kind() {
        for (exception, kind) in [
            ("ValueError: no page", TaskEndKind::Raised),
            ("TimeLimitExceeded: 3", TaskEndKind::TimeLimit),
            ("SoftTimeLimitExceeded", TaskEndKind::TimeLimit),
            ("billiard.exceptions.SoftTimeLimitExceeded", TaskEndKind::TimeLimit),
            (
                "WorkerLostError: Worker exited prematurely: signal 9 (SIGKILL) Job: 3.",
                TaskEndKind::ProcessLost,
            ),
            ("TaskRevokedError: revoked", TaskEndKind::Revoked),
            ("TaskRevokedError: expired", TaskEndKind::Expired),
            ("ChordError: GroupResult 5 no longer exists", TaskEndKind::HeaderFailed),
            (
                "EncodeError: Object of type Page is not JSON serializable",
                TaskEndKind::ResultUnstorable,
            ),
            (
                "kombu.exceptions.EncodeError: keys must be str",
                TaskEndKind::ResultUnstorable,
            ),
            (
                "TypeError: Object of type Page is not JSON serializable",
                TaskEndKind::ResultUnstorable,
            ),
            ("TypeError: unsupported operand", TaskEndKind::Raised),
            ("", TaskEndKind::Raised),
        ] {
            assert_eq!(of_exception(exception), kind, "{exception}");
        }
    }
}
