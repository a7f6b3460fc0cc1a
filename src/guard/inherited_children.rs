//! Children that this process had before its guard: what a wrapper has started and then executed orch (`exec > >(tee log)`,
//! a background job). They and what is below them are never touched.
//!
//! They decide what a descendant without any mark of the run can be, once the guard is dead and its orphans are ours.

use super::process_table::{self, Process};

/// The children of this process at the start of the guard.
#[derive(Debug)]
pub struct InheritedChildren {
    /// `None` where the kernel does not list children.
    children: Option<Vec<Inherited>>,
    /// What started before this is not the guard's.
    since: u64,
    /// This program starts nothing but the guard, and is nobody else's reaper.
    sole_spawner: bool,
}

#[derive(Debug)]
struct Inherited {
    process: Process,
    had_children: bool,
}

/// Whose a descendant is that bears no mark of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmarked {
    /// Only the guard can have left it.
    Ours,
    /// An inherited child's.
    Theirs,
    /// Either may have left it.
    Unknown,
}

impl InheritedChildren {
    /// Notes the children of this process; to be called before the guard is started.
    pub fn note(sole_spawner: bool) -> Self {
        let note = |pid: i32| {
            let process = process_table::look_up(pid).ok()??;
            let had_children = process_table::tree(pid).map_or(true, |tree| tree.len() > 1);
            Some(Inherited { process, had_children })
        };
        let children = process_table::children();
        Self {
            children: children.map(|children| children.into_iter().filter_map(note).collect()),
            since: 0,
            // The orphans of a whole container are children of its PID 1.
            sole_spawner: sole_spawner && std::process::id() != 1,
        }
    }

    /// Notes since when there is a guard.
    pub fn guard_started(&mut self, pid: i32) {
        let guard = process_table::look_up(pid).ok().flatten();
        self.since = guard.map_or(0, |guard| guard.start_time);
    }

    /// Whether every descendant of this process is the guard's.
    pub fn is_none(&self) -> bool {
        self.sole_spawner && self.children.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether no orphan can come from them: each lives, and has never had a child.
    ///
    /// The kernel adds the page faults of each child that a process has waited for to a number of that process.
    pub fn are_childless(&self) -> bool {
        let Some(children) = &self.children else {
            return false;
        };
        self.sole_spawner
            && children.iter().all(|child| {
                let now = process_table::look_up(child.process.pid).ok().flatten();
                let same = now
                    .is_some_and(|now| now.same_as(&child.process) && now.reaped_faults == child.process.reaped_faults);
                let alone = process_table::tree(child.process.pid).is_ok_and(|tree| tree.len() == 1);
                // One that had ended by then had left what it left to init.
                child.process.zombie || (same && alone && !child.had_children)
            })
    }

    /// Whose a descendant is that bears no mark of the run, below this child of ours.
    pub fn owner(&self, process: &Process, top: i32, are_childless: bool) -> Unmarked {
        let inherited = |child: &Inherited| child.process.pid == top;
        let listed = self.children.iter().flatten();
        let own_session = nix::unistd::getsid(None).map_or(0, nix::unistd::Pid::as_raw);
        if listed.into_iter().any(inherited) || process.start_time < self.since {
            return Unmarked::Theirs;
        }
        if are_childless {
            return Unmarked::Ours;
        }
        // Each service has a session of its own, and nobody can enter an existing one.
        if process.session == own_session {
            return Unmarked::Theirs;
        }
        Unmarked::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, session: i32, start_time: u64) -> Process {
        Process {
            pid,
            parent: 1,
            group: session,
            session,
            start_time,
            zombie: false,
            stopped: false,
            reaped_faults: 0,
        }
    }

    #[test]
    fn what_bears_no_mark_is_judged_by_where_it_can_come_from() {
        let own = nix::unistd::getsid(None).unwrap().as_raw();
        let helper = Inherited {
            process: process(70, own, 50),
            had_children: false,
        };
        let inherited = InheritedChildren {
            children: Some(vec![helper]),
            since: 100,
            sole_spawner: true,
        };
        let far = i32::MAX;
        for (process, top, childless, expected) in [
            (process(70, own, 50), 70, true, Unmarked::Theirs),
            (process(71, far, 120), 70, true, Unmarked::Theirs),
            (process(90, far, 99), 90, true, Unmarked::Theirs),
            (process(90, far, 120), 90, true, Unmarked::Ours),
            (process(90, own, 120), 90, true, Unmarked::Ours),
            (process(90, far, 120), 90, false, Unmarked::Unknown),
            (process(90, own, 120), 90, false, Unmarked::Theirs),
        ] {
            assert_eq!(inherited.owner(&process, top, childless), expected, "{process:?}");
        }
        // The helper of this test does not exist.
        assert!(!inherited.are_childless());
    }
}
