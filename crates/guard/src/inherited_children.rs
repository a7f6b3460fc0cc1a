//! Children that this process had before the guard: a wrapper started them and then executed orch (`exec > >(tee log)`,
//! a background job). orch never touches these children or their descendants.
//!
//! Their existence decides how orch treats a descendant without a mark of the run, once the guard is dead and the
//! orphans are children of orch.

use orch_base::system::processes;
use orch_base::system::processes::Process;

/// The children of this process at the start of the guard.
#[derive(Debug)]
pub struct InheritedChildren {
    /// `None` if the kernel does not list children.
    children: Option<Vec<InheritedChild>>,
    /// Start time of the guard; an older process does not belong to the guard.
    since: u64,
    /// This program starts nothing but the guard, and adopts no orphans of other programs.
    owns_all_children: bool,
}

#[derive(Debug)]
struct InheritedChild {
    process: Process,
    had_children: bool,
}

/// The owner of a descendant without a mark of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmarkedOwner {
    /// Only the guard can have left the process.
    Guard,
    /// The process belongs to an inherited child.
    Inherited,
    /// The guard or an inherited child may have left the process.
    Unknown,
}

impl InheritedChildren {
    /// Records the children of this process; called before the guard is started.
    pub fn note(owns_all_children: bool) -> Self {
        let note = |pid: i32| {
            let process = processes::look_up(pid).ok()??;
            let had_children = processes::tree(pid).map_or(true, |tree| tree.len() > 1);
            Some(InheritedChild { process, had_children })
        };
        let children = processes::children();
        Self {
            children: children.map(|children| children.into_iter().filter_map(note).collect()),
            since: 0,
            // PID 1 of a container adopts all orphans of the container.
            owns_all_children: owns_all_children && std::process::id() != 1,
        }
    }

    /// Records the start time of the guard.
    pub fn guard_started(&mut self, pid: i32) {
        let guard = processes::look_up(pid).ok().flatten();
        self.since = guard.map_or(0, |guard| guard.start_time);
    }

    /// Returns true if every descendant of this process belongs to the guard.
    pub fn guard_owns_all(&self) -> bool {
        self.owns_all_children && self.children.as_ref().is_some_and(Vec::is_empty)
    }

    /// Returns true if no orphan can come from the inherited children: each one is alive, and has never had a child.
    ///
    /// The kernel counts the page faults of each child that a process has waited for; an unchanged number means no such
    /// child.
    pub fn are_childless(&self) -> bool {
        let Some(children) = &self.children else {
            return false;
        };
        self.owns_all_children
            && children.iter().all(|child| {
                let now = processes::look_up(child.process.pid).ok().flatten();
                let same = now
                    .is_some_and(|now| now.same_as(&child.process) && now.reaped_faults == child.process.reaped_faults);
                let alone = processes::tree(child.process.pid).is_ok_and(|tree| tree.len() == 1);
                // A child that had already ended has left orphans to init.
                child.process.zombie || (same && alone && !child.had_children)
            })
    }

    /// Returns the owner of a descendant without a mark of the run; `top` is the child of this process that is the
    /// descendant's ancestor.
    pub fn owner(&self, process: &Process, top: i32, are_childless: bool) -> UnmarkedOwner {
        let inherited = |child: &InheritedChild| child.process.pid == top;
        let listed = self.children.iter().flatten();
        let own_session = nix::unistd::getsid(None).map_or(0, nix::unistd::Pid::as_raw);
        if listed.into_iter().any(inherited) || process.start_time < self.since {
            return UnmarkedOwner::Inherited;
        }
        if are_childless {
            return UnmarkedOwner::Guard;
        }
        // Each service has a separate session, and no process can enter an existing one.
        if process.session == own_session {
            return UnmarkedOwner::Inherited;
        }
        UnmarkedOwner::Unknown
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
            has_executed: true,
            reaped_faults: 0,
            cpu_ticks: 0,
        }
    }

    #[test]
    fn a_process_without_a_mark_belongs_to_its_only_possible_source() {
        let own = nix::unistd::getsid(None).unwrap().as_raw();
        let helper = InheritedChild {
            process: process(70, own, 50),
            had_children: false,
        };
        let inherited = InheritedChildren {
            children: Some(vec![helper]),
            since: 100,
            owns_all_children: true,
        };
        let far = i32::MAX;
        for (process, top, childless, expected) in [
            (process(70, own, 50), 70, true, UnmarkedOwner::Inherited),
            (process(71, far, 120), 70, true, UnmarkedOwner::Inherited),
            (process(90, far, 99), 90, true, UnmarkedOwner::Inherited),
            (process(90, far, 120), 90, true, UnmarkedOwner::Guard),
            (process(90, own, 120), 90, true, UnmarkedOwner::Guard),
            (process(90, far, 120), 90, false, UnmarkedOwner::Unknown),
            (process(90, own, 120), 90, false, UnmarkedOwner::Inherited),
        ] {
            assert_eq!(inherited.owner(&process, top, childless), expected, "{process:?}");
        }
        // The helper process of this test does not exist.
        assert!(!inherited.are_childless());
    }
}
