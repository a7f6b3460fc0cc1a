//! Kills process trees: the rest of some services, or all descendants of this process.
//!
//! The processes are first stopped as far as possible, so that they do not fork during the listing; then they are
//! listed and killed. A process that escapes becomes a child of this process sooner or later, since this process adopts
//! orphans. Such orphans are killed again and again, without a look at all processes of the machine.
//!
//! A child keeps pid and process group until the reap; this module never reaps a child and signals the pid afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp, getsid};

use crate::kill_exactly::kill_exactly;
use crate::protocol::SERVICE_VARIABLE;
use orch_base::system::processes;
use orch_base::system::processes::Process;
use orch_linux::sys;

/// Longest time for killing children before the rest of the event loop gets a turn.
const TURN_TIMEOUT: Duration = Duration::from_millis(50);
/// Longest time for stopping orphans before the owners of the stopped ones are determined.
const STOP_ORPHANS_TIMEOUT: Duration = Duration::from_millis(500);
/// Delay for killed processes to be gone before they are listed again.
const POLL_INTERVAL: Duration = Duration::from_micros(200);

/// The process tree of a service.
#[derive(Clone, Copy, Debug)]
pub struct ServiceTree<'a> {
    pub service: &'a str,
    /// File that is the service's standard output and error.
    pub log: &'a Path,
    /// The main process: leader of the service's session.
    pub main: i32,
    /// The main process is not reaped.
    pub alive: bool,
    /// The whole tree is to be killed now.
    pub to_kill: bool,
}

/// Processes that are left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemainingProcesses {
    /// Services to kill of which something may be alive.
    pub services: BTreeSet<String>,
    /// Any descendant of this process was seen.
    pub any: bool,
    /// All descendants of this process that were seen, if all were to be killed.
    pub processes: Vec<Process>,
    /// Processes that the guard may not signal: they run as another user, started by a program with that right.
    pub refused: BTreeSet<i32>,
}

impl RemainingProcesses {
    fn note(&mut self, pid: i32, signalled: Result<(), Errno>) {
        if signalled == Err(Errno::EPERM) {
            self.refused.insert(pid);
        }
    }
}

/// The process trees below this process.
pub struct ServiceTrees<'a>(pub &'a [ServiceTree<'a>]);

impl ServiceTrees<'_> {
    /// Kills the rest of the trees that are to be killed, and returns what was found.
    ///
    /// # Errors
    /// The processes cannot be listed; those that are known without a listing have been killed.
    pub fn kill_selected(&self) -> io::Result<RemainingProcesses> {
        let any_alive = self.trees_to_kill().any(|tree| tree.alive);
        // The usual end of a service. Only this thread forks and reaps here, so the kernel's list is complete:
        // remaining processes of the service are below a child of this process, and the living main processes belong to
        // other services.
        if !any_alive && self.orphans().is_some_and(|orphans| orphans.is_empty()) {
            return Ok(RemainingProcesses::default());
        }
        // From here on nothing is reaped before all listed processes have been signalled.
        self.freeze();
        // Neither step lists all processes of the machine; processes that fork endlessly leave no time for that.
        let more = self.kill_orphans();
        let whole = self.kill_alive();
        if more || whole.is_err() {
            return whole.map(|()| self.all_to_kill());
        }
        let (mut left, mut seen, mut groups) =
            (RemainingProcesses::default(), BTreeSet::new(), ProcessGroups::default());
        let mut owners: BTreeMap<i32, &ServiceTree<'_>> = BTreeMap::new();
        for (process, top) in processes::descendants(me())? {
            left.any = true;
            seen.insert(process.pid);
            // Parents come first: a process without a mark belongs to the parent's service.
            let owner = self.owner(&process, top);
            let Some(tree) = owner.or_else(|| owners.get(&process.parent).copied()) else {
                continue;
            };
            owners.insert(process.pid, tree);
            if tree.to_kill {
                left.services.insert(tree.service.to_owned());
                left.note(process.pid, signal_listed(&process, &mut groups));
            }
        }
        // The owner of a process that has appeared since the listing may not be known yet.
        if self.orphans().unwrap_or_default().iter().any(|pid| !seen.contains(pid)) {
            return Ok(self.all_to_kill());
        }
        Ok(left)
    }

    /// Kills the trees whose main processes live. A process that leaves the session and wipes the environment can be
    /// attributed to the service only as long as the parents live.
    fn kill_alive(&self) -> io::Result<()> {
        let (mut looked, mut groups) = (Ok(()), ProcessGroups::default());
        for tree in self.trees_to_kill().filter(|tree| tree.alive) {
            let below = processes::tree(tree.main);
            signal_group(tree.main, Signal::SIGKILL);
            // Killed even if the tree cannot be listed.
            signal(tree.main).ok();
            match below {
                Ok(below) => below.iter().for_each(|process| {
                    signal_listed(process, &mut groups).ok();
                }),
                Err(error) => looked = Err(error),
            }
        }
        looked
    }

    fn all_to_kill(&self) -> RemainingProcesses {
        RemainingProcesses {
            services: self.trees_to_kill().map(|tree| tree.service.to_owned()).collect(),
            any: true,
            ..RemainingProcesses::default()
        }
    }

    fn trees_to_kill(&self) -> impl Iterator<Item = &ServiceTree<'_>> {
        self.0.iter().filter(|tree| tree.to_kill)
    }

    /// Stops the process groups of the trees to kill: a stopped process cannot fork.
    fn freeze(&self) {
        // The groups of living main processes first: the loop over thousands of ended orphans takes time.
        for tree in self.trees_to_kill().filter(|tree| tree.alive) {
            signal_group(tree.main, Signal::SIGSTOP);
        }
        let mut groups = ProcessGroups::default();
        for orphan in self.orphans().unwrap_or_default() {
            let session = getsid(Some(Pid::from_raw(orphan))).map_or(0, Pid::as_raw);
            if self.trees_to_kill().any(|tree| tree.main == session)
                && let Ok(group) = getpgid(Some(Pid::from_raw(orphan)))
            {
                groups.signal_once(group.as_raw(), Signal::SIGSTOP);
            }
        }
    }

    /// Kills orphans of the trees to kill until no new ones appear, and reaps ended ones; returns true if there may be
    /// more.
    fn kill_orphans(&self) -> bool {
        // Each orphan is checked and killed once: the check may read files, and a process that waits for a disk ends
        // later.
        let mut checked: BTreeSet<i32> = BTreeSet::new();
        let deadline = Instant::now() + TURN_TIMEOUT;
        loop {
            let mut killed_any = false;
            for pid in self.orphans().unwrap_or_default() {
                if has_been_reaped(pid) {
                    checked.remove(&pid);
                } else if checked.insert(pid) && self.is_to_kill(pid) {
                    killed_any |= self.kill_orphan(pid);
                }
                if Instant::now() >= deadline {
                    self.stop_and_kill_orphans();
                    return true;
                }
            }
            if !killed_any {
                return false;
            }
        }
    }

    /// Kills orphans that are too many to be checked one after the other: they use all processors, and the owner of a
    /// process cannot be read during an exec. All orphans are stopped first; orphans of other services are continued.
    fn stop_and_kill_orphans(&self) {
        let mut stopped: BTreeSet<i32> = BTreeSet::new();
        let deadline = Instant::now() + STOP_ORPHANS_TIMEOUT;
        loop {
            let mut more = false;
            for pid in self.orphans().unwrap_or_default() {
                if has_been_reaped(pid) {
                    stopped.remove(&pid);
                } else if !stopped.contains(&pid) && !is_stopped(pid) {
                    kill(Pid::from_raw(pid), Signal::SIGSTOP).ok();
                    stopped.insert(pid);
                    more = true;
                }
            }
            if !more || Instant::now() >= deadline {
                break;
            }
            // Descendants of stopped orphans run until they are orphans themselves.
            std::thread::park_timeout(POLL_INTERVAL);
        }
        for pid in self.orphans().unwrap_or_default() {
            if self.is_to_kill(pid) {
                self.kill_orphan(pid);
            } else if stopped.contains(&pid) {
                kill(Pid::from_raw(pid), Signal::SIGCONT).ok();
            }
        }
    }

    /// Kills an orphan, and all descendants first: a process without a mark can be attributed only by the parent, as
    /// long as that lives. Returns false if the orphan cannot be signalled.
    fn kill_orphan(&self, orphan: i32) -> bool {
        // A process that the orphan started from here on would be missed.
        kill(Pid::from_raw(orphan), Signal::SIGSTOP).ok();
        // A tree that cannot be listed is found again when the orphan is dead.
        for process in processes::tree(orphan).unwrap_or_default().iter().skip(1) {
            if self.owner_of(process.pid).is_none_or(|tree| tree.to_kill) {
                signal_exactly(process).ok();
            }
        }
        signal(orphan).is_ok()
    }

    /// Lists the children of this process that are not a service's main process; `None` if the kernel does not list
    /// children.
    fn orphans(&self) -> Option<Vec<i32>> {
        let mut children = processes::children()?;
        children.retain(|pid| !self.0.iter().any(|tree| tree.alive && tree.main == *pid));
        Some(children)
    }

    /// Returns the service of a process: that of the ancestor, else that of the session, else that in the environment,
    /// else that of the log which receives the output.
    fn owner(&self, process: &Process, top: i32) -> Option<&ServiceTree<'_>> {
        self.by_main(top)
            .or_else(|| self.by_main(process.session))
            .or_else(|| self.by_environment(process.pid))
            .or_else(|| self.by_log(process.pid))
    }

    fn is_to_kill(&self, orphan: i32) -> bool {
        // If all trees are to be killed, the owner does not matter.
        self.0.iter().all(|tree| tree.to_kill) || self.owner_of(orphan).is_some_and(|tree| tree.to_kill)
    }

    fn owner_of(&self, pid: i32) -> Option<&ServiceTree<'_>> {
        let session = getsid(Some(Pid::from_raw(pid))).map_or(0, Pid::as_raw);
        self.by_main(session)
            .or_else(|| self.by_environment(pid))
            .or_else(|| self.by_log(pid))
    }

    fn by_main(&self, pid: i32) -> Option<&ServiceTree<'_>> {
        self.0.iter().find(|tree| tree.main == pid)
    }

    fn by_environment(&self, pid: i32) -> Option<&ServiceTree<'_>> {
        let service = processes::environment_variable(pid, SERVICE_VARIABLE)?;
        self.0.iter().find(|tree| tree.service == service)
    }

    fn by_log(&self, pid: i32) -> Option<&ServiceTree<'_>> {
        let outputs = processes::output_files(pid);
        self.0.iter().find(|tree| outputs.iter().any(|file| file == tree.log))
    }
}

/// Kills and reaps the children of this process until none is left or the time of this turn is over; their orphans
/// become children and are killed next. The ends of these children are not reported. Returns true if no child is left;
/// also false if the kernel does not list children.
pub fn kill_children() -> bool {
    let deadline = Instant::now() + TURN_TIMEOUT;
    loop {
        // Reaped first: thousands of ended children slow down the loop over the few living ones.
        while Instant::now() < deadline && matches!(sys::reap_child(), Ok(Some(_))) {}
        let Some(children) = processes::children() else {
            return false;
        };
        if children.is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        let mut groups = ProcessGroups::default();
        for pid in children {
            if let Ok(group) = getpgid(Some(Pid::from_raw(pid))) {
                groups.signal_once(group.as_raw(), Signal::SIGKILL);
            }
            signal(pid).ok();
        }
        // The killed processes need a moment to end.
        std::thread::park_timeout(POLL_INTERVAL);
    }
}

/// Kills all descendants of this process, also below a child that does not end (a child that waits for a disk or is
/// another user's).
///
/// # Errors
/// The processes cannot be listed.
pub fn kill_descendants() -> io::Result<RemainingProcesses> {
    let mut left = RemainingProcesses::default();
    for (process, _) in processes::descendants(me())? {
        left.any = true;
        if !process.zombie {
            left.note(process.pid, signal_exactly(&process));
        }
        left.processes.push(process);
    }
    Ok(left)
}

fn me() -> i32 {
    std::process::id().cast_signed()
}

/// Kills a child of this process.
fn signal(pid: i32) -> Result<(), Errno> {
    kill(Pid::from_raw(pid), Signal::SIGKILL)
}

/// Kills a listed process; for a child of this process, also the whole process group.
fn signal_listed(process: &Process, groups: &mut ProcessGroups) -> Result<(), Errno> {
    if process.parent == me() {
        groups.signal_once(process.group, Signal::SIGKILL);
        return signal(process.pid);
    }
    match process.zombie {
        true => Ok(()),
        false => signal_exactly(process),
    }
}

/// Kills a process that is not a child, if the pid still belongs to the process.
fn signal_exactly(process: &Process) -> Result<(), Errno> {
    let killed = kill_exactly(process.pid, process.start_time);
    let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
    killed.map(|_| ()).map_err(errno)
}

/// Process groups of children, each of which is signalled once per listing: thousands of children may share one group.
#[derive(Default)]
struct ProcessGroups(BTreeSet<i32>);

impl ProcessGroups {
    fn signal_once(&mut self, group: i32, signal: Signal) {
        if self.0.insert(group) {
            signal_group(group, signal);
        }
    }
}

/// Signals a child's whole process group at once, so that no member can escape by a fork.
fn signal_group(group: i32, signal: Signal) {
    // The groups of this process and of init are excluded; processes of another user refuse the signal.
    if group > 1 && group != getpgrp().as_raw() {
        killpg(Pid::from_raw(group), signal).ok();
    }
}

/// Returns true if the process is stopped.
fn is_stopped(pid: i32) -> bool {
    processes::look_up(pid).is_ok_and(|process| process.is_some_and(|process| process.stopped))
}

/// Reaps the child if the child has ended; returns true after a reap.
fn has_been_reaped(pid: i32) -> bool {
    let state = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    // A status that the library does not know (a real-time signal) is an end, too.
    !matches!(state, Ok(WaitStatus::StillAlive))
}
