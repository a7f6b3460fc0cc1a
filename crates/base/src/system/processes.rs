//! Processes as `/proc` shows them: parent, process group, session, start time.
//!
//! "The process has ended" and "the process cannot be looked up" are different results: a caller that cannot look must
//! not conclude that no process is left.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

/// The fields of `/proc/<pid>/stat` that orch uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// The process group: the pid of the leader.
    pub group: i32,
    pub session: i32,
    /// Clock ticks since boot; together with the pid the start time identifies a process for the whole uptime.
    pub start_time: u64,
    /// The process has ended and is not yet reaped.
    pub zombie: bool,
    /// The process is stopped by a signal or a tracer.
    pub stopped: bool,
    /// The process has executed a program since the fork.
    pub has_executed: bool,
    /// Page faults of the children that the process has waited for; the number grows when the process waits for another
    /// one.
    pub reaped_faults: u64,
    /// Processor time of the process and of the children that it has waited for, in clock ticks.
    pub cpu_ticks: u64,
}

impl Process {
    /// Returns true if both values describe the same process.
    pub fn same_as(&self, other: &Self) -> bool {
        (self.pid, self.start_time) == (other.pid, other.start_time)
    }
}

/// Returns the id of this boot of the machine, to which start times belong; `None` if the kernel does not provide it.
pub fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// `PF_FORKNOEXEC` of the flags in field 9 (`include/linux/sched.h`).
const FORKED_WITHOUT_EXECUTION: u64 = 0x40;

fn parse(stat: &[u8]) -> Option<Process> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let pid = text(stat.get(..open)?)?.trim().parse().ok()?;
    let rest = text(stat.get(close + 1..)?)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        stopped: matches!(*fields.first()?, "T" | "t"),
        has_executed: fields.get(6)?.parse::<u64>().ok()? & FORKED_WITHOUT_EXECUTION == 0,
        reaped_faults: fields.get(8)?.parse::<u64>().ok()? + fields.get(10)?.parse::<u64>().ok()?,
        cpu_ticks: cpu_ticks(fields.get(11..15)?),
    })
}

/// Adds user and system time of a process and of its ended children.
fn cpu_ticks(fields: &[&str]) -> u64 {
    // The times of ended children are signed in the kernel's text.
    let ticks = fields.iter().filter_map(|field| field.parse::<u64>().ok());
    ticks.fold(0, u64::saturating_add)
}

/// Checks that `/proc` shows processes under the pids of this pid namespace.
///
/// # Errors
/// `/proc` cannot be used; the text says why and how to repair that.
pub fn check_proc() -> io::Result<()> {
    let unusable = |why: String| io::Error::other(format!("{why}; mount it (mount -t proc proc /proc)"));
    let shown = match fs::read_link("/proc/self") {
        Ok(shown) => shown,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unusable("/proc is not mounted, or hidden".to_owned()));
        }
        Err(error) => {
            return Err(io::Error::new(
                error.kind(),
                format!("could not read /proc/self: {error}"),
            ));
        }
    };
    let me = std::process::id();
    // With the `/proc` of another namespace, each pid there is another process here.
    if shown.to_str().and_then(|pid| pid.parse().ok()) != Some(me) {
        return Err(unusable(format!(
            "/proc is that of another pid namespace: this process is {} there and {me} here",
            shown.display()
        )));
    }
    match look_up(me.cast_signed())? {
        Some(_) => Ok(()),
        None => Err(unusable("/proc does not show this process itself".to_owned())),
    }
}

/// Looks up a process; returns `None` if there is no such process or the process is hidden.
///
/// # Errors
/// The process cannot be looked up, for example because no descriptor is left.
pub fn look_up(pid: i32) -> io::Result<Option<Process>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(parse(&stat)),
        // The process ended before or during the read, or `/proc` hides processes of another user.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
                || error.raw_os_error() == Some(nix::libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("could not read /proc/{pid}/stat: {error}"),
        )),
    }
}

/// Returns true if a process of this pid exists and has not ended; a process that cannot be looked up counts as alive.
pub fn is_alive(pid: i32) -> bool {
    look_up(pid).map_or(true, |process| process.is_some_and(|process| !process.zombie))
}

/// Returns true if the process with this pid and start time is alive. The start time 0 means "unknown" and fits any
/// process. A process that cannot be looked up counts as alive.
pub fn is_alive_with_start_time(pid: i32, start_time: u64) -> bool {
    let same = |process: Process| !process.zombie && (start_time == 0 || process.start_time == start_time);
    look_up(pid).map_or(true, |process| process.is_some_and(same))
}

/// Returns the start time of this process; 0 if that is unknown.
pub fn own_start_time() -> u64 {
    let own = look_up(std::process::id().cast_signed());
    own.ok().flatten().map_or(0, |process| process.start_time)
}

/// Returns a variable of a process's initial environment; also `None` if the environment may not be read.
pub fn environment_variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

/// Returns the name of the process's program, as the kernel keeps it (at most 15 bytes).
pub fn program_name(pid: i32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

/// Returns the states of the threads of a process as the letters of the kernel, without threads that have ended.
pub fn living_thread_states(pid: i32) -> Vec<u8> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let states = threads.flatten().filter_map(|thread| {
        let stat = fs::read(thread.path().join("stat")).ok()?;
        // The name in parentheses may contain any character.
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        stat.get(name_end + 2).copied()
    });
    states.filter(|state| !matches!(state, b'Z' | b'X')).collect()
}

/// Returns true if the process exists and the environment may not be read; usually such a process belongs to another
/// user.
pub fn is_hidden(pid: i32) -> bool {
    // The kernel checks the permission when the file is opened; for a process that has ended the file is not found.
    fs::File::open(format!("/proc/{pid}/environ")).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Returns the files that are the process's standard output and error, without symbolic links; empty if they are not
/// visible.
pub fn output_files(pid: i32) -> Vec<PathBuf> {
    let link = |descriptor| fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok();
    [1, 2].into_iter().filter_map(link).collect()
}

/// Lists the pids of all visible processes, this process included.
///
/// # Errors
/// The processes cannot be listed; the absence of a pid proves nothing then.
pub fn pids() -> io::Result<BTreeSet<i32>> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("could not list /proc: {error}"));
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    if found.contains(&std::process::id().cast_signed()) {
        Ok(found)
    } else {
        Err(io::Error::other(
            "/proc does not show this process: its processes are hidden",
        ))
    }
}

/// Lists all visible processes, this process included.
///
/// # Errors
/// The processes cannot be listed or looked up; the absence of a process proves nothing then.
pub fn all() -> io::Result<Vec<Process>> {
    let pids = pids()?;
    let mut found = Vec::with_capacity(pids.len());
    for pid in pids {
        found.extend(look_up(pid)?);
    }
    Ok(found)
}

/// Lists the children of this process, including those that have ended and are not reaped; `None` if the kernel does
/// not list children. During the listing a new child may be missed, and a child that is reaped may hide another one.
pub fn children() -> Option<Vec<i32>> {
    children_of(std::process::id().cast_signed())
}

fn children_of(pid: i32) -> Option<Vec<i32>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let listed = fs::read_to_string(thread.ok()?.path().join("children")).ok()?;
        found.extend(
            listed
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    Some(found)
}

/// Lists a process and all descendants, parents first. The list is read from the root down, without a look at all
/// processes of the machine. Processes that fork or end during the listing may be missing.
///
/// # Errors
/// A process cannot be looked up.
pub fn tree(root: i32) -> io::Result<Vec<Process>> {
    let mut found: Vec<Process> = look_up(root)?.into_iter().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        for child in children_of(parent).unwrap_or_default() {
            found.extend(look_up(child)?.filter(|process| process.parent == parent));
        }
        next += 1;
    }
    Ok(found)
}

/// Lists every descendant of `root` together with the child of `root` (or the descendant itself if that is the child),
/// parents first.
///
/// # Errors
/// The errors of [`all`].
pub fn descendants(root: i32) -> io::Result<Vec<(Process, i32)>> {
    let all = all()?;
    let known: HashSet<i32> = all.iter().map(|process| process.pid).collect();
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for mut process in all {
        // The parent ended while the other processes were read; the process has a new parent by now.
        if process.parent != 0
            && !known.contains(&process.parent)
            && let Some(now) = look_up(process.pid)?.filter(|now| now.same_as(&process))
        {
            process = now;
        }
        children.entry(process.parent).or_default().push(process);
    }
    let mut found: Vec<(Process, i32)> = Vec::new();
    let mut pending: Vec<(i32, Option<i32>)> = vec![(root, None)];
    while let Some((parent, top)) = pending.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            let top = top.unwrap_or(child.pid);
            pending.push((child.pid, Some(top)));
            found.push((child, top));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_spaces_do_not_confuse() {
        let line =
            b"42 (a) b (c) S 7 42 41 0 -1 4194304 1 5 0 6 1 2 3 4 20 0 1 0 987654 1000 20 18446744073709551615\n";
        let process = parse(line).unwrap();
        assert_eq!(
            process,
            Process {
                pid: 42,
                parent: 7,
                group: 42,
                session: 41,
                start_time: 987_654,
                zombie: false,
                stopped: false,
                has_executed: true,
                reaped_faults: 11,
                cpu_ticks: 10,
            }
        );
        let forked = String::from_utf8_lossy(line).replace(" 4194304 ", " 4194368 ");
        assert!(!parse(forked.as_bytes()).unwrap().has_executed);
        assert_eq!(parse(b"1 (x"), None);
    }

    #[test]
    fn this_process_is_alive_and_its_parent_is_known() {
        let me = std::process::id().cast_signed();
        assert!(is_alive(me));
        check_proc().unwrap();
        let process = look_up(me).unwrap().unwrap();
        assert_eq!(process.parent, nix::unistd::getppid().as_raw());
        assert!(all().unwrap().iter().any(|other| other.same_as(&process)));
        assert_eq!(look_up(i32::MAX).unwrap(), None);
    }
}
