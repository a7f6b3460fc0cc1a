//! Names of the tasks of one job.
//!
//! Of the events of a task only `task-received` has the name (Celery wire, observed on 5.2 to 5.7). Nearly all tasks of a
//! job have one name, so only the others are stored.

use foldhash::HashMap;

use orch_celery::TaskId;

/// Number of tasks with another name than the usual one that are remembered.
const MAX_OTHERS: usize = 10_000;

/// Names of the tasks of one job, by task.
#[derive(Debug, Default)]
pub(crate) struct TaskNames {
    /// Name of the first task after the dispatch task.
    usual: Option<String>,
    /// Tasks with other names, or without a name.
    others: HashMap<TaskId, Option<String>>,
    /// Some of these tasks are not remembered: the usual name would be wrong for them.
    is_full: bool,
}

impl TaskNames {
    /// Notes the name of a task that a worker has taken; `is_root` if this is the job's first task.
    pub fn note(&mut self, task: &TaskId, is_root: bool, name: Option<&str>) {
        if !is_root && name.is_some() {
            match &self.usual {
                None => self.usual = name.map(str::to_owned),
                Some(usual) if name == Some(usual) => {}
                Some(_) => self.note_other(task, name),
            }
        } else {
            self.note_other(task, name);
        }
    }

    fn note_other(&mut self, task: &TaskId, name: Option<&str>) {
        if self.others.len() < MAX_OTHERS {
            self.others.insert(task.clone(), name.map(str::to_owned));
        } else {
            self.is_full = true;
        }
    }

    /// Returns the name of a task that was noted.
    pub fn of(&self, task: &TaskId) -> Option<&str> {
        match self.others.get(task) {
            Some(name) => name.as_deref(),
            None => self.usual.as_deref().filter(|_| !self.is_full),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_name_and_the_others_are_known() {
        let mut names = TaskNames::default();
        let id = |text: &str| TaskId::from(text);
        names.note(&id("root"), true, Some("app.dispatch"));
        for chunk in ["a", "b", "c"] {
            names.note(&id(chunk), false, Some("app.chunk"));
        }
        names.note(&id("callback"), false, Some("app.collect"));
        names.note(&id("unnamed"), false, None);
        let found = ["root", "a", "c", "callback", "unnamed"].map(|task| names.of(&id(task)));
        assert_eq!(
            found,
            [
                Some("app.dispatch"),
                Some("app.chunk"),
                Some("app.chunk"),
                Some("app.collect"),
                None
            ]
        );
        for number in 0..MAX_OTHERS + 10 {
            names.note(&id(&format!("other {number}")), false, Some("app.other"));
        }
        assert_eq!(names.of(&id("not remembered")), None);
    }
}
