//! Whether late acknowledgement reached every task of the worker. Not here: how it is switched on (`worker_command`).

use std::time::Duration;

use crate::celery::{Acknowledgement, Control, Target};
use crate::run::{EventKind, Level, Recorder};

/// For the question; a worker that has just answered a ping answers it at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many tasks are named; the rest is counted.
const NAMED: usize = 10;
/// Celery's own tasks, such as `celery.chord_unlock`.
const BUILT_IN: &str = "celery.";

/// Warns of tasks that a crash can lose though the user asked for late acknowledgement. A worker that does not tell is
/// warned of as well: it must not pass for checked.
pub(super) async fn warn_of_unreached(control: &Control, target: &Target, recorder: &Recorder) {
    let message = match control.acknowledgement(target, PATIENCE).await {
        Ok(replies) => match replies.good().next() {
            Some((_, tasks)) => unreached(tasks),
            None => Some("the worker does not tell which tasks it acknowledges late".to_owned()),
        },
        Err(error) => Some(format!("cannot find out which tasks are acknowledged late: {error}")),
    };
    if let Some(message) = message {
        let level = Level::Warning;
        recorder.emit(EventKind::Noticed { level, message });
    }
}

fn unreached(tasks: &[Acknowledgement]) -> Option<String> {
    let mut names: Vec<&str> = tasks
        .iter()
        .filter(|task| !(task.task.starts_with(BUILT_IN) || task.late && task.put_back))
        .map(|task| task.task.as_str())
        .collect();
    if names.is_empty() {
        return None;
    }
    names.sort_unstable();
    let rest = names.len().saturating_sub(NAMED);
    let count = names.len();
    names.truncate(NAMED);
    let more = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    Some(format!(
        "late acknowledgement does not reach {count} of the worker's tasks: {}{more}; a crash can lose what they \
         do\n  hint:  the app is finalised at import, or these tasks say otherwise: give them `acks_late=True, \
         reject_on_worker_lost=True` where they are defined",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str, late: bool, put_back: bool) -> Acknowledgement {
        let task = name.to_owned();
        Acknowledgement { task, late, put_back }
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
        let told = unreached(&some).unwrap();
        assert!(told.contains("2 of the worker's tasks: a.chunk, b.total;"), "{told}");
    }

    #[test]
    fn many_tasks_are_counted() {
        let many: Vec<_> = (0..500).map(|n| task(&format!("t{n:03}"), false, false)).collect();
        let told = unreached(&many).unwrap();
        assert!(told.contains("500 of") && told.contains("t009 and 490 more"), "{told}");
    }
}
