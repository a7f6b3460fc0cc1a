//! The check whether late acknowledgement applies to every task of the worker. Not here: the settings that enable it
//! ([`command_line`](crate::worker::command_line)).

use std::time::Duration;

use orch_celery::{AcknowledgementMode, ControlTarget, RemoteControl};
use orch_journal::{EventKind, Recorder, WorkerProblem};

/// Longest wait for the answer; a worker that has just answered a ping answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of tasks that an event names; the rest is counted.
const NAMED: usize = 10;
/// Prefix of Celery's own tasks, such as `celery.chord_unlock`.
const BUILT_IN: &str = "celery.";

/// Warns about tasks that a crash can lose although the user asked for late acknowledgement. Also warns about a worker
/// that does not report tasks: such a worker must not count as checked.
pub(crate) async fn warn_of_unreached(control: &RemoteControl, target: &ControlTarget, recorder: &Recorder) {
    let problem = match control.acknowledgement(target, ANSWER_TIMEOUT).await {
        Ok(replies) => match replies.good().next() {
            Some((_, tasks)) => unreached(tasks),
            None => Some(WorkerProblem::AcknowledgementUnknown { reason: None }),
        },
        Err(error) => Some(WorkerProblem::AcknowledgementUnknown {
            reason: Some(error.to_string()),
        }),
    };
    if let Some(problem) = problem {
        recorder.emit(EventKind::WorkerProblemFound { problem });
    }
}

fn unreached(tasks: &[AcknowledgementMode]) -> Option<WorkerProblem> {
    let mut names: Vec<&str> = tasks
        .iter()
        .filter(|task| !(task.task.starts_with(BUILT_IN) || task.late && task.requeues_on_worker_loss))
        .map(|task| task.task.as_str())
        .collect();
    if names.is_empty() {
        return None;
    }
    names.sort_unstable();
    Some(WorkerProblem::AcknowledgedEarly {
        count: names.len() as u64,
        tasks: names.into_iter().take(NAMED).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str, late: bool, put_back: bool) -> AcknowledgementMode {
        let task = name.to_owned();
        AcknowledgementMode {
            task,
            late,
            requeues_on_worker_loss: put_back,
        }
    }

    #[test]
    fn both_settings_count_and_celery_s_own_tasks_do_not() {
        let fine = [task("a.chunk", true, true), task("celery.chord", false, false)];
        assert_eq!(unreached(&fine), None);
        let some = [
            task("b.total", true, false),
            task("a.chunk", false, true),
            task("a.fine", true, true),
        ];
        let expected = WorkerProblem::AcknowledgedEarly {
            count: 2,
            tasks: vec!["a.chunk".to_owned(), "b.total".to_owned()],
        };
        assert_eq!(unreached(&some), Some(expected));
    }

    #[test]
    fn many_tasks_are_counted() {
        let many: Vec<_> = (0..500).map(|n| task(&format!("t{n:03}"), false, false)).collect();
        let Some(WorkerProblem::AcknowledgedEarly { count, tasks }) = unreached(&many) else {
            panic!("no task is reported");
        };
        assert_eq!((count, tasks.len(), tasks[9].as_str()), (500, 10, "t009"));
    }
}
