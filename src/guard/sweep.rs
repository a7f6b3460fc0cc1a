//! Ending trees by force: what is left of some services, or all that this process has below it.
//!
//! What is looked at is frozen first, as far as it can be, so that it does not fork meanwhile; then listed and killed. What
//! escapes is a child of this process sooner or later, since whoever loses its parent becomes one: those are hit again and
//! again, without looking at the rest of the machine.
//!
//! A child of ours keeps its pid, and its process group, until it is reaped; nothing here reaps one and signals it after.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp, getsid};

use super::process_table::{self, Process};
use super::{SERVICE_VARIABLE, leftovers, sys};

/// How long children are hit before it is the rest of the guard's turn.
const TURN: Duration = Duration::from_millis(50);
/// How long orphans are stopped before those that are are asked whose they are.
const STORM: Duration = Duration::from_millis(500);
/// How long the killed are given to be gone before they are looked for again.
const PAUSE: Duration = Duration::from_micros(200);

/// A service, as far as its processes are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    pub service: &'a str,
    /// What the service's standard output and error are.
    pub log: &'a Path,
    /// The main process: leader of the service's session.
    pub main: i32,
    /// The main process is not reaped.
    pub alive: bool,
    /// All of it is to end, now.
    pub doomed: bool,
}

/// What is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Doomed services of which something may live.
    pub services: BTreeSet<String>,
    /// Anything at all was seen below this process.
    pub any: bool,
    /// Processes that we may not signal: another user's, started by a program with that right.
    pub refused: BTreeSet<i32>,
}

impl Left {
    fn note(&mut self, pid: i32, signalled: Result<(), Errno>) {
        if signalled == Err(Errno::EPERM) {
            self.refused.insert(pid);
        }
    }
}

/// The trees of this process.
pub struct Trees<'a>(pub &'a [Tree<'a>]);

impl Trees<'_> {
    /// Kills what is left of the doomed, and tells what was there to be killed.
    ///
    /// # Errors
    /// The processes cannot be listed; what is known without that has been killed.
    pub fn end_doomed(&self) -> io::Result<Left> {
        let any_alive = self.doomed().any(|tree| tree.alive);
        // The usual end of a service. This thread alone forks and reaps here, so that the kernel's list is whole; whatever
        // a service has left is below a child of this process, and the main processes that live are others'.
        if !any_alive && self.orphans().is_some_and(|orphans| orphans.is_empty()) {
            return Ok(Left::default());
        }
        // From here on nothing is reaped before all that is looked at has been signalled.
        self.freeze();
        // Neither needs a look at the whole machine, for which those that fork without end leave no time.
        let more = self.hit_orphans();
        let whole = self.end_alive();
        if more || whole.is_err() {
            return whole.map(|()| self.all_doomed());
        }
        let (mut left, mut seen, mut groups) = (Left::default(), BTreeSet::new(), Groups::default());
        let mut owners: BTreeMap<i32, &Tree<'_>> = BTreeMap::new();
        for (process, top) in process_table::descendants(me())? {
            left.any = true;
            seen.insert(process.pid);
            // Parents come first: who says nothing of itself is whose its parent is.
            let owner = self.owner(&process, top);
            let Some(tree) = owner.or_else(|| owners.get(&process.parent).copied()) else {
                continue;
            };
            owners.insert(process.pid, tree);
            if tree.doomed {
                left.services.insert(tree.service.to_owned());
                left.note(process.pid, signal_listed(&process, &mut groups));
            }
        }
        // Whose process it is that has come since may not be known yet.
        if self.orphans().unwrap_or_default().iter().any(|pid| !seen.contains(pid)) {
            return Ok(self.all_doomed());
        }
        Ok(left)
    }

    /// Kills the doomed whose main processes live, with all that is below those: what leaves its session and wipes its
    /// environment is known as theirs only as long as it has its parents.
    fn end_alive(&self) -> io::Result<()> {
        let (mut looked, mut groups) = (Ok(()), Groups::default());
        for tree in self.doomed().filter(|tree| tree.alive) {
            let below = process_table::tree(tree.main);
            signal_group(tree.main, Signal::SIGKILL);
            // Also when nothing can be looked at.
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

    fn all_doomed(&self) -> Left {
        Left {
            services: self.doomed().map(|tree| tree.service.to_owned()).collect(),
            any: true,
            ..Left::default()
        }
    }

    fn doomed(&self) -> impl Iterator<Item = &Tree<'_>> {
        self.0.iter().filter(|tree| tree.doomed)
    }

    /// Stops the groups of the doomed: whoever is in one cannot fork its way past that.
    fn freeze(&self) {
        // These at once: thousands of ended orphans may be in the way of the others.
        for tree in self.doomed().filter(|tree| tree.alive) {
            signal_group(tree.main, Signal::SIGSTOP);
        }
        let mut groups = Groups::default();
        for orphan in self.orphans().unwrap_or_default() {
            let session = getsid(Some(Pid::from_raw(orphan))).map_or(0, Pid::as_raw);
            if self.doomed().any(|tree| tree.main == session)
                && let Ok(group) = getpgid(Some(Pid::from_raw(orphan)))
            {
                groups.signal_once(group.as_raw(), Signal::SIGSTOP);
            }
        }
    }

    /// Kills orphans of the doomed as long as there are further ones, and reaps those that have ended; whether there may be
    /// more.
    fn hit_orphans(&self) -> bool {
        // Each is asked about and killed once: an owner may be in a file, and one that waits for a disk ends later.
        let mut judged: BTreeSet<i32> = BTreeSet::new();
        let over = Instant::now() + TURN;
        loop {
            let mut hit = false;
            for pid in self.orphans().unwrap_or_default() {
                if has_been_reaped(pid) {
                    judged.remove(&pid);
                } else if judged.insert(pid) && self.is_doomed(pid) {
                    hit |= self.end_orphan(pid);
                }
                if Instant::now() >= over {
                    self.hit_stopped();
                    return true;
                }
            }
            if !hit {
                return false;
            }
        }
    }

    /// The same where they are too many to be asked one after the other: they take all of the processors, and whose one is
    /// cannot be read while it executes a program. All are stopped first, and go on if they are another's.
    fn hit_stopped(&self) {
        let mut stopped: BTreeSet<i32> = BTreeSet::new();
        let over = Instant::now() + STORM;
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
            if !more || Instant::now() >= over {
                break;
            }
            // Those below them run until they are orphans themselves.
            std::thread::park_timeout(PAUSE);
        }
        for pid in self.orphans().unwrap_or_default() {
            if self.is_doomed(pid) {
                self.end_orphan(pid);
            } else if stopped.contains(&pid) {
                kill(Pid::from_raw(pid), Signal::SIGCONT).ok();
            }
        }
    }

    /// Kills an orphan, and before it what is below it: whoever says nothing of itself is known by its parent alone, and
    /// only as long as that lives. False if the orphan cannot be signalled.
    fn end_orphan(&self, orphan: i32) -> bool {
        // What it would start from here on would not be seen.
        kill(Pid::from_raw(orphan), Signal::SIGSTOP).ok();
        // Who cannot be looked up is met again when the orphan is dead.
        for process in process_table::tree(orphan).unwrap_or_default().iter().skip(1) {
            if self.owner_of(process.pid).is_none_or(|tree| tree.doomed) {
                signal_exactly(process).ok();
            }
        }
        signal(orphan).is_ok()
    }

    /// Children of this process that are no service's main process; `None` where the kernel does not list them.
    fn orphans(&self) -> Option<Vec<i32>> {
        let mut children = process_table::children()?;
        children.retain(|pid| !self.0.iter().any(|tree| tree.alive && tree.main == *pid));
        Some(children)
    }

    /// Whose process it is: of the service it descends from, else of its session's, else of the one that its environment
    /// names, else of the one to whose log it writes.
    fn owner(&self, process: &Process, top: i32) -> Option<&Tree<'_>> {
        self.by_main(top)
            .or_else(|| self.by_main(process.session))
            .or_else(|| self.by_environment(process.pid))
            .or_else(|| self.by_log(process.pid))
    }

    fn is_doomed(&self, orphan: i32) -> bool {
        // Nobody else could have left it.
        self.0.iter().all(|tree| tree.doomed) || self.owner_of(orphan).is_some_and(|tree| tree.doomed)
    }

    fn owner_of(&self, pid: i32) -> Option<&Tree<'_>> {
        let session = getsid(Some(Pid::from_raw(pid))).map_or(0, Pid::as_raw);
        self.by_main(session)
            .or_else(|| self.by_environment(pid))
            .or_else(|| self.by_log(pid))
    }

    fn by_main(&self, pid: i32) -> Option<&Tree<'_>> {
        self.0.iter().find(|tree| tree.main == pid)
    }

    fn by_environment(&self, pid: i32) -> Option<&Tree<'_>> {
        let service = process_table::variable(pid, SERVICE_VARIABLE)?;
        self.0.iter().find(|tree| tree.service == service)
    }

    fn by_log(&self, pid: i32) -> Option<&Tree<'_>> {
        let outputs = process_table::outputs(pid);
        self.0.iter().find(|tree| outputs.iter().any(|file| file == tree.log))
    }
}

/// Kills the children of this process, and reaps them, until there are none or it is the rest of the guard's turn: whoever
/// loses its parent is next. Their ends are not worth a report any more. Whether none is left; false also where the kernel
/// does not list children.
pub fn end_children() -> bool {
    let over = Instant::now() + TURN;
    loop {
        // First: thousands that have ended may be in the way of the few that live.
        while Instant::now() < over && matches!(sys::reap_one(), Ok(Some(_))) {}
        let Some(children) = process_table::children() else {
            return false;
        };
        if children.is_empty() {
            return true;
        }
        if Instant::now() >= over {
            return false;
        }
        let mut groups = Groups::default();
        for pid in children {
            if let Ok(group) = getpgid(Some(Pid::from_raw(pid))) {
                groups.signal_once(group.as_raw(), Signal::SIGKILL);
            }
            signal(pid).ok();
        }
        // The dying need a moment.
        std::thread::park_timeout(PAUSE);
    }
}

/// Kills all that is below this process, also below a child that does not end: it waits for a disk, or is another user's.
///
/// # Errors
/// The processes cannot be listed.
pub fn end_below() -> io::Result<Left> {
    let mut left = Left::default();
    for (process, _) in process_table::descendants(me())? {
        left.any = true;
        if !process.zombie {
            left.note(process.pid, signal_exactly(&process));
        }
    }
    Ok(left)
}

fn me() -> i32 {
    std::process::id().cast_signed()
}

/// Kills a child of ours.
fn signal(pid: i32) -> Result<(), Errno> {
    kill(Pid::from_raw(pid), Signal::SIGKILL)
}

/// Kills a process of a listing, and if it is a child of ours all of its group.
fn signal_listed(process: &Process, groups: &mut Groups) -> Result<(), Errno> {
    if process.parent == me() {
        groups.signal_once(process.group, Signal::SIGKILL);
        return signal(process.pid);
    }
    match process.zombie {
        true => Ok(()),
        false => signal_exactly(process),
    }
}

/// Kills another's child, if the pid is still this process's.
fn signal_exactly(process: &Process) -> Result<(), Errno> {
    let killed = leftovers::kill_exactly(process.pid, process.start_time);
    let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
    killed.map(|_| ()).map_err(errno)
}

/// Process groups that children of ours are in, each of which is signalled once in a look: thousands may be in one.
#[derive(Default)]
struct Groups(BTreeSet<i32>);

impl Groups {
    fn signal_once(&mut self, group: i32, signal: Signal) {
        if self.0.insert(group) {
            signal_group(group, signal);
        }
    }
}

/// Signals a process group that a child of ours is in: all of it at once, so that nobody in it can fork its way past.
fn signal_group(group: i32, signal: Signal) {
    // Those of this process and of init are nobody else's to signal; another user's processes refuse.
    if group > 1 && group != getpgrp().as_raw() {
        killpg(Pid::from_raw(group), signal).ok();
    }
}

/// Whether somebody has stopped it.
fn is_stopped(pid: i32) -> bool {
    process_table::look_up(pid).is_ok_and(|process| process.is_some_and(|process| process.stopped))
}

/// Reaps a child if it has ended.
fn has_been_reaped(pid: i32) -> bool {
    let state = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    // A status that the library does not know (a real-time signal) is an end, too.
    !matches!(state, Ok(WaitStatus::StillAlive))
}
